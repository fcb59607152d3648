"""What `tenantry demo` shows between its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.rule import Rule

from cli.collect import explanation
from cli.command import Session, option
from cli.simulated import program
from cli.state import State
from cli.trail import entry, replayed, show_entries
from domain.ids import ENTRA, credential_stream, tenant_id
from projections.runs import RunRow


def step(session: Session, title: str) -> None:
    if not session.json:
        session.console.print(Rule(title, align="left", style="dim"))


def outcome_lines(row: RunRow, name: str) -> list[dict[str, object]]:
    """A line for each dataset; one line for a tenant of which nothing could be collected."""
    if row.state == "failed":
        every = f"all {len(row.datasets)}"
        return [{"tenant": name, "dataset": every, "outcome": "not-started", "rows": 0, "why": row.reason}]
    return [
        {
            "tenant": name,
            "dataset": one.dataset,
            "outcome": one.outcome,
            "rows": one.rows,
            "requests": one.requests,
            "seconds": one.seconds,
            "why": one.reason,
        }
        for one in row.datasets
    ]


def failures(session: Session, rows: Sequence[RunRow], names: Mapping[str, str]) -> None:
    """Each reason of a tenant once, with what to do about it."""
    step(session, "What is missing, why, and what to do")
    told = set()
    for row in rows:
        reasons = [(row.reason, row.detail), *((one.reason, one.detail) for one in row.datasets)]
        for reason, detail in reasons:
            if reason and (row.tenant, reason) not in told:
                told.add((row.tenant, reason))
                session.say(f"{names[row.tenant]}: {explanation(reason, detail)}", "yellow")
    if not told:
        session.say("Nothing.")


def trail(session: Session, state: State, tenant: str, name: str) -> None:
    step(session, f"Every use of the credential of {name} is on record")
    if not session.json:
        show_entries(session, [entry(one) for one in state.store.read(credential_stream(tenant_id(tenant), ENTRA))])


def past(session: Session, state: State, tenant: str, name: str, position: int) -> None:
    step(session, f"{name} as it was before the second collection (position {position})")
    if not session.json:
        for line in replayed(state, str(position), tenant)["fleet"]:
            session.show(line["datasets"], ("dataset", "state", "rows", "last_complete"), "Nothing.")


def further(session: Session, tenant: str, seconds: float) -> None:
    step(session, f"Done in {seconds:.0f} s. Go on in the same state directory:")
    for line in (
        "tenant list",
        "run list",
        'data sql "select department, count(*) users from entra_users group by 1 order by 2 desc"',
        f"audit log --credential {tenant}",
        "audit verify",
    ):
        session.say(f"  {program()} {line}{option(session)}")
