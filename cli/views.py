"""The views, brought up to date with the event store before they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec

from cli.command import now
from cli.state import State
from domain.ids import RunId
from domain.tenant import Tenant
from projections.fleet import line
from projections.runs import UNFINISHED, RunRow
from projections.views import Views


@contextmanager
def views(state: State) -> Iterator[Views]:
    with Views(state.views) as opened:
        opened.catch_up(state.store)
        yield opened


def fleet(state: State) -> list[dict[str, Any]]:
    """A line for each tenant."""
    with views(state) as opened:
        return [plain(line(row, now())) for row in opened.fleet.rows()]


def plain(value: msgspec.Struct) -> Any:
    """As dictionaries and lists, times kept as times."""
    return msgspec.to_builtins(value, builtin_types=(datetime,))


def tenants(state: State, *, active: bool = False) -> list[Tenant]:
    with views(state) as opened:
        return [row.tenant for row in opened.fleet.rows(states=("active",) if active else ())]


def runs(state: State, *, tenant: str | None = None, limit: int) -> list[RunRow]:
    """Newest first."""
    with views(state) as opened:
        return list(opened.runs.rows(tenant=tenant, newest=True, limit=limit))


def unfinished(state: State) -> list[RunRow]:
    """Requested or started and not ended, oldest first."""
    with views(state) as opened:
        return list(opened.runs.rows(states=UNFINISHED))


def runs_by_id(state: State, wanted: Sequence[RunId]) -> list[RunRow]:
    """In the order of `wanted`."""
    with views(state) as opened:
        return [row for row in map(opened.runs.row, wanted) if row is not None]


def run_object(row: RunRow) -> dict[str, Any]:
    """The JSON form that others build on."""
    return {
        "run": row.run,
        "tenant": row.tenant,
        "state": row.state,
        "requested": row.requested,
        "started": row.started,
        "finished": row.finished,
        "reason": row.reason,
        "detail": row.detail,
        "datasets": [
            {
                "dataset": one.dataset,
                "outcome": one.outcome,
                "reason": one.reason,
                "detail": one.detail,
                "rows": one.rows,
                "requests": one.requests,
                "seconds": one.seconds,
            }
            for one in row.datasets
        ],
    }
