"""`tenantry run ...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cli.command import INCOMPLETE, Session, tell_cut
from cli.state import opened
from cli.views import run_object, runs, views
from domain import run as domain_runs
from domain.errors import Unknown
from domain.events import RunEvent
from domain.ids import run_id, run_stream, tenant_id
from domain.run import Run
from eventstore.streams import Held
from projections.runs import RunRow

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, see `tenantry run list`.")]


def list_(
    session: Session,
    tenant: Annotated[str | None, typer.Option(metavar="GUID", help="Only this tenant's runs.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="N", help="At most so many, newest first.")] = 100,
) -> None:
    """List runs, newest first. Says so on standard error when there are more than --limit.

    Example: `tenantry run list --tenant TENANT --json`
    """
    found = runs(opened(session), tenant=tenant_id(tenant) if tenant else None, limit=limit + 1)
    _show(session, found[:limit])
    if len(found) > limit:
        tell_cut(limit)


def _show(session: Session, rows: Sequence[RunRow]) -> None:
    if session.json:
        session.print_json([run_object(row) for row in rows])
        return
    lines = [
        {
            "run": row.run,
            "tenant": row.tenant,
            "state": row.state,
            "requested": row.requested,
            "rows": sum(one.rows for one in row.datasets),
            "datasets": summary(row),
            "why": row.reason or missing(row),
        }
        for row in rows
    ]
    session.show(lines, ("run", "tenant", "state", "requested", "rows", "datasets", "why"), "No runs yet.")


def show(session: Session, run: RunArgument) -> None:
    """Show one run with the outcome of each dataset. Exit code 3 when something is missing.

    Example: `tenantry run show 20261122T203000-0a1b2c3d`
    """
    checked = run_id(run)
    with views(opened(session)) as current:
        row = current.runs.row(checked)
    if row is None:
        raise Unknown("run", run, "See `tenantry run list`.")
    if session.json:
        session.print_json(run_object(row))
    else:
        session.say(f"{row.run} of {row.tenant}: {row.state}{f' ({row.reason})' if row.reason else ''}", "bold")
        if row.detail:
            session.say(row.detail)
        session.show(outcomes(row), ("dataset", "outcome", "rows", "requests", "seconds", "why"), "No datasets.")
    if not complete(row):
        raise typer.Exit(INCOMPLETE)


def cancel(
    session: Session,
    run: RunArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "cancelled by the operator",
) -> None:
    """Cancel a run; what it recorded so far stays.

    Example: `tenantry run cancel 20261122T203000-0a1b2c3d --reason "wrong tenant"`
    """
    state = opened(session)
    held: Held[Run | None, RunEvent] = state.held(run_stream(run_id(run)), domain_runs.evolve, None)
    if held.state is None:
        raise Unknown("run", run, "See `tenantry run list`.")
    changed = state.decide(held, lambda found: domain_runs.cancel(found, reason) if found else [], "run cancel")
    if session.json:
        session.print_json({"run": run, "state": held.state.state, "changed": changed})
    session.say(f"Cancelled {run}." if changed else f"{run} had ended already: {held.state.state}.")


def complete(row: RunRow) -> bool:
    return row.state == "finished" and all(one.outcome == "complete" for one in row.datasets)


def summary(row: RunRow) -> str:
    done = sum(one.outcome == "complete" for one in row.datasets)
    return f"{done}/{len(row.datasets)} complete"


def missing(row: RunRow) -> str:
    """Why datasets of an ended run are incomplete, each reason once."""
    return ", ".join(
        sorted({one.reason or one.outcome for one in row.datasets if one.outcome not in (None, "complete")})
    )


def outcomes(row: RunRow) -> list[dict[str, Any]]:
    return [
        {
            "dataset": one.dataset,
            "outcome": one.outcome or ("waiting" if row.state == "requested" else "running"),
            "rows": one.rows,
            "requests": one.requests,
            "seconds": one.seconds,
            "why": one.detail or one.reason,
        }
        for one in row.datasets
    ]
