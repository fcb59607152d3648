"""`tenantry data ...`: collected rows as tables."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.command import INCOMPLETE, Session, flag, operator_name
from cli.refusals import Refusal
from cli.state import State, opened
from cli.views import plain
from cli.views import tenants as registered
from collectors.catalog import load_catalog
from crypto.datakey import DataKey, from_secret
from crypto.transit import TransitKey
from domain.errors import Malformed
from domain.ids import TenantId, moment, tenant_id
from eventstore.batches import open_batch_store
from query.merge import DatasetShape
from vault.messages import ReleaseDataKey, data_key_context

if TYPE_CHECKING:
    from query.tables import Missing, Tables

FORMATS = ("parquet", "csv", "jsonl")

AsOf = Annotated[str | None, typer.Option("--as-of", metavar="TIME", help="As it was known then (ISO 8601).")]
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
    tables = tables_of(opened(session), tenant or [], "data datasets")
    found = asyncio.run(tables.datasets(count=count, as_of=moment(as_of) if as_of else None))
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
    tables = tables_of(opened(session), tenant or [], f"data sql: {statement[:200]}")
    result = asyncio.run(tables.sql(statement, moment(as_of) if as_of else None))
    session.show(result.objects(), result.columns, "No rows.")
    tell_missing(session, result.missing)


def export(
    session: Session,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of a dataset, such as entra.users.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write; readable by its owner only.")],
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="parquet, csv or jsonl.")] = "parquet",
    tenant: Only = None,
    as_of: AsOf = None,
    overwrite: Annotated[bool, flag("--overwrite", help="Replace the file when it is there already.")] = False,
) -> None:
    """Write the rows of a dataset to a file. Exit code 3 when rows of a tenant are missing: it says which and why.

    Example: `tenantry data export entra.users --format csv --out users.csv`
    """
    if format_ not in FORMATS:
        raise Malformed("format", format_, ", ".join(FORMATS))
    tables = tables_of(opened(session), tenant or [], f"data export {dataset}")
    until = moment(as_of) if as_of else None
    done = asyncio.run(tables.export(dataset, format_, out, until, overwrite=overwrite))  # type: ignore[arg-type]
    if session.json:
        session.print_json(done)
    session.say(f"Wrote {done.rows:,} rows to {done.path}.")
    tell_missing(session, done.missing)


def tables_of(state: State, tenants: Sequence[str], why: str) -> Tables:
    """Every registered tenant, or those named. Opening a tenant's rows releases its data key, on record with `why`."""
    from query.tables import Tables

    chosen = [state.tenant(text).id for text in tenants] or [tenant.id for tenant in registered(state)]
    shapes = {
        name: DatasetShape(key=definition.key, mode=definition.mode, columns=definition.select)
        for name, definition in load_catalog(state.settings.catalog).items()
    }
    return Tables(
        state.store,
        open_batch_store(state.settings.batches),
        lambda tenant: released_data_key(state, tenant, why),
        shapes,
        chosen,
    )


def released_data_key(state: State, tenant: TenantId, why: str) -> DataKey:
    """The tenant's data key, released to the operator with an event. Raises `ReleaseRefused`."""
    transit = TransitKey.generate()
    who = operator_name()
    request = ReleaseDataKey(tenant=tenant_id(tenant), transit_key=transit.public, operator=who, why=why)
    sealed = state.keyholder.release_data_key(request)
    with transit.open(sealed, data_key_context(tenant, who)) as secret:
        return from_secret(secret)


def tell_missing(session: Session, missing: Sequence[Missing]) -> None:
    """Rows that are not in the answer are told, and the exit code says so."""
    if not missing:
        return
    lines = [Refusal(f"{one.dataset} of {one.tenant} is missing", one.why) for one in missing]
    if session.json:
        lines = [Refusal("Rows are missing", " ".join(one.line() for one in lines))]
    for line in lines:
        session.refuse(line, INCOMPLETE)
    raise typer.Exit(INCOMPLETE)
