"""`tenantry collect`: requests runs and carries them out here, with progress."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from actors.plan import datasets_for
from actors.standing import REASON
from cli.command import FAILED, INCOMPLETE, Session, flag, now, operator, option, tell
from cli.forecast import announce
from cli.progress import Progress, completed, counted
from cli.refusals import Refusal
from cli.run import complete
from cli.state import State, opened
from cli.turn import check_authorities, turn
from cli.views import run_object, runs_by_id, unfinished
from cli.views import tenants as registered
from collectors.catalog import load_catalog
from domain import run as domain_runs
from domain import tenant as tenants
from domain.errors import NotAllowed, PermanentError, Unknown, Unreadable
from domain.events import RunEvent, RunRequested
from domain.ids import RunId, TenantId, known_dataset, new_run_id, run_stream
from domain.run import Run
from domain.tenant import Tenant
from eventstore.streams import Held
from projections.runs import RunRow

UNAVAILABLE = "unavailable"
"""The reason of what was given up after a transient error."""


def collect(
    session: Session,
    tenant: Annotated[list[str] | None, typer.Argument(metavar="TENANT...", help="Directory ids.")] = None,
    all_: Annotated[bool, flag("--all", help="Every active tenant.")] = False,
    dataset_: Annotated[
        list[str] | None, typer.Option("--dataset", "-d", metavar="NAME", help="Only these datasets.")
    ] = None,
    full: Annotated[bool, flag("--full", help="Read everything, even where a delta would do.")] = False,
    detach: Annotated[bool, flag("--detach", help="Only request; the next `collect` carries it out.")] = False,
) -> None:
    """Collect now. Exit code 3 when something is missing (the table says what and why) or when it was stopped, 1 when
    no run finished.

    Runs that an earlier `collect` left unfinished go on from their last batch; without TENANT and --all, only these.
    With --all a tenant that cannot be collected as asked is skipped, and named; one that is named is an error.

    Example: `tenantry collect --all -d entra.users`
    """
    state = opened(session)
    left = unfinished(state)
    asked, skipped = chosen(state, tenant or [], every=all_, left=left), False
    names = [known_dataset(name, load_catalog(session.settings.catalog)) for name in dataset_ or []]
    if all_:
        asked, skipped = collectable(state, asked, names)
    again = continued(state, asked, names, left, full=full)
    anew = [one for one in asked if one.id not in {row.tenant for row in again}]
    if detach:
        requested = request(state, anew, names, full=full)
        session.show([{"run": run} for run in requested], ("run",), "Unfinished runs will do what was asked.")
        if skipped:
            raise typer.Exit(INCOMPLETE)
        return
    check_authorities(state, [*asked, *(state.tenant(row.tenant) for row in left)])
    with turn(state):
        if left:
            oldest = f"{left[0].requested:%Y-%m-%d %H:%M}"
            session.say(f"Going on with {len(left)} unfinished runs, the oldest requested at {oldest} UTC.")
        requested = [*(row.run for row in left), *request(state, anew, names, full=full)]
        expiring = announce(state, {*(one.id for one in asked), *(TenantId(row.tenant) for row in left)}, "collect")
        rows = carry_out(session, state, requested)
    report(session, state, rows)
    for one in expiring:
        session.say(f"{one.tenant}, {one.slot}: the credential expires on {one.expires:%Y-%m-%d}.", "yellow")
    if any(row.state != "finished" for row in rows):
        raise typer.Exit(FAILED if all(row.state != "finished" for row in rows) else INCOMPLETE)
    if skipped or not all(complete(row) for row in rows):
        raise typer.Exit(INCOMPLETE)


def chosen(state: State, asked: Sequence[str], *, every: bool, left: Sequence[RunRow]) -> list[Tenant]:
    """The tenants to collect. Raises `NotAllowed` for none or for one that may not be collected."""
    if asked and every:
        raise NotAllowed("collect", "tenants are named and --all is given", "Name them, or give --all.")
    if not asked and not every:
        if left:
            return []
        raise NotAllowed("collect", "it needs to know which tenants", "Name them, or give --all.")
    if not every:
        found = list({tenant.id: tenant for tenant in map(state.tenant, asked)}.values())
        for tenant in found:
            tenants.may_run(tenant)
        return found
    found = registered(state, active=True)
    if not found:
        raise NotAllowed("collect", "there is no active tenant", "Register one with `tenantry tenant add`.")
    return found


def collectable(state: State, asked: Sequence[Tenant], names: Sequence[str]) -> tuple[list[Tenant], bool]:
    """Those of which what is asked for can be collected, and whether others were left out, which are told. Raises what
    stands in the way of all of them."""
    catalog = load_catalog(state.settings.catalog)
    found: list[Tenant] = []
    refused: list[PermanentError] = []
    for one in asked:
        try:
            datasets_for(one, catalog, names)
            check_authorities(state, [one])
        except (NotAllowed, Unknown, Unreadable) as error:
            refused.append(error)
            tell(f"{one.name} is skipped. {error}")
        else:
            found.append(one)
    if not found:
        raise refused[0]
    return found, bool(refused)


def continued(
    state: State, asked: Sequence[Tenant], names: Sequence[str], left: Sequence[RunRow], *, full: bool
) -> list[RunRow]:
    """Unfinished runs that collect what is asked for: they go on, and nothing is read twice."""
    catalog = load_catalog(state.settings.catalog)
    wanted = {(tenant.id, datasets_for(tenant, catalog, names), full) for tenant in asked}
    return [row for row in left if (row.tenant, tuple(one.dataset for one in row.datasets), row.full) in wanted]


def request(state: State, asked: Sequence[Tenant], names: Sequence[str], *, full: bool) -> list[RunId]:
    """Appends RunRequested for each tenant, when there is something to collect from every one."""
    catalog = load_catalog(state.settings.catalog)
    events = []
    for tenant in asked:
        run = new_run_id(now(), secrets.randbits(32))
        events.append(RunRequested(run=run, tenant=tenant.id, datasets=datasets_for(tenant, catalog, names), full=full))
    for event in events:
        held: Held[Run | None, RunEvent] = state.held(run_stream(event.run), domain_runs.evolve, None)
        held.append(
            lambda known, event=event: domain_runs.request(known, event),  # type: ignore[misc]
            at=now(),
            actor=operator(),
            cause=event.run,
        )
    return [event.run for event in events]


def carry_out(session: Session, state: State, requested: Sequence[RunId]) -> list[RunRow]:
    """Starts the actors, shows progress until the runs have ended; their rows."""
    from actors.system import System

    names = {tenant.id: tenant.name for tenant in registered(state)}
    try:
        with Progress(session, state.store, requested, names) as progress, System(state.settings) as system:
            system.work(until_idle=True)
            with noticed(signal.SIGINT, signal.SIGTERM) as stopped:
                while not system.ended(timeout_seconds=0.2):
                    progress.update()
                    if stopped():
                        raise KeyboardInterrupt
            progress.update()
    except KeyboardInterrupt:
        again = f"`tenantry collect{option(session)}`"
        kept = f"What was collected so far is kept; the next {again} goes on from there."
        session.refuse(Refusal("Stopped", do=kept), INCOMPLETE)
        raise typer.Exit(INCOMPLETE) from None
    return runs_by_id(state, requested)


@contextmanager
def noticed(*signals: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Whether one of them came. An exception out of a signal handler would be lost where it meets a callback of Ray."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in signals}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(session: Session, state: State, rows: Sequence[RunRow]) -> None:
    """What each run came to, and what is missing."""
    if session.json:
        session.print_json([run_object(row) for row in rows])
        return
    names = {tenant.id: tenant.name for tenant in registered(state)}
    lines = [
        {
            "run": row.run,
            "name": names.get(row.tenant, row.tenant),
            "state": row.state,
            "rows": counted(row),
            "requests": sum(one.requests for one in row.datasets),
            "seconds": (row.finished - row.started).total_seconds() if row.finished and row.started else None,
            "complete": completed(row),
        }
        for row in rows
    ]
    session.show(lines, ("run", "name", "state", "rows", "requests", "seconds", "complete"), "Nothing was collected.")
    for row in rows:
        name = names.get(row.tenant, row.tenant)
        if row.reason == REASON:
            session.say(f"{name} is skipped: {row.detail}", "yellow")
            continue
        found = missing(row)
        for subject, reason, detail in found:
            session.say(f"{name}, {subject}: {explanation(reason, detail)}", "yellow")
        if any(reason == UNAVAILABLE for _, reason, _ in found):
            session.say(f"`tenantry doctor {row.tenant}` says whether the network stands in the way.", "yellow")


def explanation(reason: str, detail: str | None) -> str:
    """Both, or the detail alone where it names the reason."""
    return detail if detail and reason in detail else f"{reason}. {detail or ''}".rstrip()


def missing(row: RunRow) -> list[tuple[str, str, str]]:
    """What of a run is not complete, why, and what to do: the run itself when it failed, else its datasets. A complete
    one that has a reason has lost something before it began."""
    if row.state in ("failed", "cancelled"):
        return [("the whole run", row.reason or row.state, row.detail or "")]
    found: list[tuple[Any, str, str]] = [
        (one.dataset, one.reason or one.outcome or "running", one.detail or "")
        for one in row.datasets
        if one.outcome != "complete" or one.reason
    ]
    return found
