"""`tenantry data ...`: collected rows as tables."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors.plan import possible
from cli.collect import explanation
from cli.command import INCOMPLETE, Session, flag, operator_name, tell
from cli.refusals import Refusal
from cli.state import State, opened
from cli.trail import point
from cli.views import plain, views
from cli.views import tenants as registered
from collectors.catalog import load_catalog
from crypto.datakey import DataKey, from_secret
from crypto.transit import TransitKey
from domain.errors import Malformed, NotAllowed
from domain.ids import TenantId, tenant_id
from domain.tenant import Tenant
from eventstore.batches import open_batch_store
from query.merge import DatasetShape
from vault.messages import ReleaseDataKey, data_key_context

if TYPE_CHECKING:
    from query.tables import Missing, Tables

FORMATS = ("parquet", "csv", "jsonl")

AsOf = Annotated[
    str | None,
    typer.Option("--as-of", metavar="TIME|POSITION", help="As it was known then: ISO 8601 time, or a position."),
]
Only = Annotated[list[str] | None, typer.Option("--tenant", metavar="GUID", help="Only these tenants.")]


def datasets(
    session: Session,
    tenant: Only = None,
    as_of: AsOf = None,
    count: Annotated[bool, flag("--count", help="Read the rows where events alone do not tell their number.")] = False,
) -> None:
    """List datasets and tables, with the state and rows of each tenant that has them.

    Example: `tenantry data datasets --tenant TENANT`
    """
    state = opened(session)
    until = point(state, as_of) if as_of else None
    tables = tables_of(state, registered_or(state, tenant or []), "data datasets")
    found = asyncio.run(tables.datasets(count=count, as_of=until))
    rows = [plain(one) for one in found if one.state != "never"]
    if not rows and not session.json:
        catalog = load_catalog(session.settings.catalog)
        session.say("Nothing collected yet. The catalog: " + ", ".join(catalog))
        return
    session.show(rows, ("tenant", "dataset", "table", "state", "rows", "last_complete", "reason"), "")


def sql(
    session: Session,
    statement: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT, in DuckDB's SQL.")],
    tenant: Only = None,
    as_of: AsOf = None,
) -> None:
    """Run SQL on what was collected. Dataset `entra.users` is table `entra_users`; each row has `_tenant`.

    Exit code 3 when rows of a tenant are missing: it says which and why.

    Example: `tenantry data sql "select department, count(*) from entra_users group by 1 order by 2 desc"`
    """
    state = opened(session)
    until = point(state, as_of) if as_of else None
    tenants = readable(state, tenant or [])
    tables = tables_of(state, tenants, f"data sql: {statement[:200]}", named=bool(tenant))
    result = asyncio.run(tables.sql(statement, until))
    session.show(result.objects(), result.columns, "No rows.", as_named=True)
    tell_missing(session, state, result.missing)


def export(
    session: Session,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of a dataset, such as entra.users.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write; readable by its owner only.")],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="parquet, csv or jsonl [default: as FILE is named, or parquet]."
        ),
    ] = None,
    tenant: Only = None,
    as_of: AsOf = None,
    overwrite: Annotated[bool, flag("--overwrite", help="Replace the file when it is there already.")] = False,
) -> None:
    """Write the rows of a dataset to a file. Exit code 3 when rows of a tenant are missing: it says which and why.

    Example: `tenantry data export entra.users --out users.csv`
    """
    format_ = chosen_format(format_, out)
    state = opened(session)
    until = point(state, as_of) if as_of else None
    tables = tables_of(state, readable(state, tenant or []), f"data export {dataset}", named=bool(tenant))
    done = asyncio.run(tables.export(dataset, format_, out, until, overwrite=overwrite))  # type: ignore[arg-type]
    if session.json:
        session.print_json(done)
    session.say(f"Wrote {done.rows:,} rows to {done.path}.")
    tell_missing(session, state, done.missing)


def chosen_format(asked: str | None, out: Path) -> str:
    """Raises `Malformed`, or `NotAllowed` where the file's name says another one."""
    if str(out) == "-":
        why = "an export is written whole or not at all"
        raise NotAllowed("export to standard output", why, "Name a file, or use `tenantry data sql`.")
    named = out.suffix.lower().removeprefix(".")
    if asked is None:
        return named if named in FORMATS else "parquet"
    if asked not in FORMATS:
        raise Malformed("format", asked, ", ".join(FORMATS))
    if named in FORMATS and named != asked:
        raise NotAllowed(f"write {out}", f"its name says {named}, and --format {asked}", "Change one of them.")
    return asked


def registered_or(state: State, named: Sequence[str]) -> list[Tenant]:
    """Those named, or every registered tenant."""
    return [state.tenant(text) for text in named] or registered(state)


def readable(state: State, named: Sequence[str]) -> list[Tenant]:
    """The same without those offboarded, whose rows nobody can open any more. Raises `NotAllowed` for one that is
    named."""
    found = registered_or(state, named)
    kept = [tenant for tenant in found if tenant.state != "offboarded"]
    gone = [tenant for tenant in found if tenant.state == "offboarded"]
    if named and gone:
        why = f"tenant {gone[0].id} is offboarded"
        raise NotAllowed("read the rows", why, "Its data key was destroyed: nobody can open them any more.")
    return kept


def tables_of(state: State, tenants: Sequence[Tenant], why: str, *, named: bool = False) -> Tables:
    """Opening a tenant's rows releases its data key, on record with `why`. Tenants that were `named` are expected to
    have every dataset that they may have, others those of their plan."""
    from query.tables import Expected, Tables

    catalog = load_catalog(state.settings.catalog)
    shapes = {
        name: DatasetShape(key=definition.key, mode=definition.mode, columns=definition.select)
        for name, definition in catalog.items()
    }
    hindrances = failures(state)
    expected = {
        tenant.id: Expected(
            datasets=frozenset(possible(tenant, catalog, catalog if named else tenant.datasets or catalog)),
            hindrance=hindrances.get(tenant.id, ""),
        )
        for tenant in tenants
    }
    return Tables(
        state.store,
        open_batch_store(state.settings.batches),
        lambda tenant: released_data_key(state, tenant, why),
        shapes,
        expected,
    )


def failures(state: State) -> dict[TenantId, str]:
    """Of tenants whose last run failed or was cancelled: why, as a sentence."""
    with views(state) as opened_views:
        rows = opened_views.fleet.rows()
    return {
        row.tenant.id: f"Its last run {last.state}: {explanation(last.reason or '', last.detail)}".rstrip(". ") + "."
        for row in rows
        if (last := row.last_run) is not None and last.state in ("failed", "cancelled")
    }


def released_data_key(state: State, tenant: TenantId, why: str) -> DataKey:
    """The tenant's data key, released to the operator with an event. Raises `ReleaseRefused`."""
    transit = TransitKey.generate()
    who = operator_name()
    request = ReleaseDataKey(tenant=tenant_id(tenant), transit_key=transit.public, operator=who, why=why)
    sealed = state.keyholder.release_data_key(request)
    with transit.open(sealed, data_key_context(tenant, who)) as secret:
        return from_secret(secret)


def labelled(tenant: Tenant) -> str:
    return f"{tenant.name} ({tenant.id})" if tenant.name != tenant.id else tenant.id


def tell_missing(session: Session, state: State, missing: Sequence[Missing]) -> None:
    """Rows that are not in the answer are told, one line for each tenant and reason, and the exit code says so. Those
    of offboarded tenants are no more, which people are told."""
    known = registered(state)
    if not session.json and (gone := [labelled(tenant) for tenant in known if tenant.state == "offboarded"]):
        tell(f"Offboarded, so without rows: {', '.join(gone)}.")
    if not missing:
        return
    names = {tenant.id: labelled(tenant) for tenant in known}
    datasets: dict[tuple[TenantId, str], list[str]] = {}
    for one in missing:
        datasets.setdefault((one.tenant, one.why), []).append(one.dataset)
    lines = [
        Refusal(f"Rows of {', '.join(of)} are missing for {names[tenant]}", why)
        for (tenant, why), of in datasets.items()
    ]
    if session.json:
        lines = [Refusal("Rows are missing", " ".join(one.line() for one in lines))]
    for line in lines:
        session.refuse(line, INCOMPLETE)
    raise typer.Exit(INCOMPLETE)
