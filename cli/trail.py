"""Stored events as `audit log` gives them, and folds of them up to a time in the past."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from cli.command import Session, now
from cli.output import cell, short
from cli.state import State
from cli.views import plain, run_object
from domain.errors import Malformed
from domain.events import Recorded, RunCancelled, RunFailed, RunFinished, RunRequested, stored_name
from domain.ids import category, moment
from projections.fleet import line
from projections.views import Views
from query.state import Point, later

PAGE = 1_000
DIGITS = 18
"""Of a position, at most."""
LONGEST_FACT = 40
ENTRY_COLUMNS = ("position", "at", "event", "actor", "run", "facts")
HIDDEN_FACTS = frozenset({"run", "tenant", "note", "cursor"})
SENTENCES = frozenset({"detail", "reason", "why"})


def followed(state: State) -> Iterator[Recorded]:
    for page in pages(state):
        yield from page


def pages(state: State) -> Iterator[tuple[Recorded, ...]]:
    after = 0
    while page := state.store.follow(after, PAGE):
        yield page
        after = page[-1].position


def entries(recorded: Iterable[Recorded]) -> Iterator[dict[str, Any]]:
    """In the order of the ledger. A run's request alone names its tenant: it is remembered until the run has ended."""
    tenants: dict[str, str] = {}
    for one in recorded:
        run = one.stream.partition(":")[2]
        match one.event:
            case RunRequested(tenant=tenant):
                tenants[run] = tenant
            case RunFinished() | RunFailed() | RunCancelled():
                yield entry(one, tenants.pop(run, None))
                continue
        yield entry(one, tenants.get(run))


def entry(recorded: Recorded, tenant_of_run: str | None = None) -> dict[str, Any]:
    """The JSON form that others build on."""
    data = msgspec.to_builtins(recorded.event)
    data.pop("event")
    key = recorded.stream.split(":")
    kind = category(recorded.stream)
    tenant = key[1] if kind in ("tenant", "credential", "collection") else data.get("tenant", tenant_of_run)
    return {
        "position": recorded.position,
        "at": recorded.at,
        "stream": recorded.stream,
        "version": recorded.version,
        "event": stored_name(recorded.event),
        "actor": recorded.actor,
        "cause": recorded.cause,
        "tenant": tenant,
        "run": key[1] if kind == "run" else data.get("run"),
        "data": data,
    }


def show_entries(session: Session, entries: list[dict[str, Any]]) -> None:
    if session.json:
        session.print_json(entries)
        return
    lines = [{**one, "facts": facts(one["data"])} for one in entries]
    session.show(lines, ENTRY_COLUMNS, "No events.")


def facts(data: dict[str, Any]) -> str:
    shown = {name: value for name, value in data.items() if name not in HIDDEN_FACTS and value not in (None, "")}
    return ", ".join(f"{name}={shortened(name, value)}" for name, value in shown.items())


def shortened(name: str, value: object) -> str:
    """Digests and the like by their beginning, lists by their length; `--json` has them whole."""
    if isinstance(value, list | tuple):
        return f"{len(value)}"
    text = short(cell(value))
    return text if name in SENTENCES or len(text) <= LONGEST_FACT else text[: LONGEST_FACT - 3] + "..."


def point(state: State, text: str) -> Point:
    """A time or a position that there has been. Raises `Malformed`."""
    if text.isdecimal():
        last = state.store.last_position()
        if len(text) > DIGITS or int(text) > last:
            raise Malformed("position of the ledger", text, f"at most {last}, which is the last one")
        return int(text)
    at = moment(text)
    if at > now():
        raise Malformed("time in the past", text, "one that has been: what will be known then is not known yet")
    return at


def replayed(state: State, as_of: str, only: str | None) -> dict[str, Any]:
    """The folds of every event up to a time or position, in a file that lasts as long as this call."""
    until = point(state, as_of)
    at = now() if isinstance(until, int) else until
    with (
        tempfile.TemporaryDirectory(prefix=".replay-", dir=state.directory) as directory,
        Views(Path(directory) / "views.db") as views,
    ):
        last = 0
        for page in pages(state):
            taken = [one for one in page if not later(one, until)]
            views.fleet.take(taken)
            views.runs.take(taken)
            if taken:
                last = taken[-1].position
                at = taken[-1].at if isinstance(until, int) else at
            if len(taken) < len(page):
                break
        return {
            "at": at,
            "position": last,
            "fleet": [plain(line(row, at)) for row in views.fleet.rows() if only in (None, row.tenant.id)],
            "runs": [run_object(row) for row in views.runs.rows(tenant=only, newest=True)],
        }
