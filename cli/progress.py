"""Progress of runs, read from the event store like everybody else reads it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.command import Session
from cli.output import cell
from domain.events import CollectionStarted
from domain.ids import RunId, TenantId
from eventstore.follower import Follower
from eventstore.store import EventStore
from projections import runs as views
from projections.runs import DatasetProgress, RunRow

MARKS: dict[str | None, tuple[str, str]] = {
    "complete": ("✓", "green"),
    "truncated": ("!", "yellow"),
    "not-possible": ("✗", "red"),
    "not-started": ("✗", "red"),
}
"""Outcome to its mark and style."""
WAITING, RUNNING = ("·", "dim"), ("▸", "cyan")
LEGEND = "✓ complete  ! truncated  ✗ not possible  ▸ running  · waiting"
ORDER = {"started": 0, "requested": 1}
"""Runs that are under way stand first, those that ended last."""
OTHER_LINES = 5
"""Lines that are not tenants: heading, total, legend and space."""
LONGEST_NAME = 24


class Progress:
    """A line for each tenant: rows, rate, state of each dataset, time left by the last run's rows."""

    def __init__(
        self, session: Session, store: EventStore, requested: Sequence[RunId], names: Mapping[TenantId, str]
    ) -> None:
        self._follower = Follower(store)
        self._requested = set(requested)
        self._names = names
        self._rows: dict[str, RunRow] = {}
        self._begun: dict[str, float] = {}
        self._reading: dict[str, set[str]] = {}
        self._before: dict[str, int] = {}
        shown = not session.json and session.console.is_terminal
        self._live = Live(console=session.console, refresh_per_second=5, transient=True) if shown else None
        self._session = session
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
            self._live.update(Text("Starting the actors ..."))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self) -> None:
        while news := self._follower.poll():
            for recorded in news:
                place = views.place(recorded)
                if place is None:
                    continue
                if isinstance(recorded.event, CollectionStarted) and place.value in self._requested:
                    self._reading.setdefault(place.value, set()).add(recorded.stream.rpartition(":")[2])
                row = views.fold(self._rows.get(place.value), recorded)
                if row is not None:
                    self._rows[place.value] = row
                    self._remember(row)
        if self._live:
            self._live.update(self._table())
        else:
            self._tell()

    def _remember(self, row: RunRow) -> None:
        if row.run in self._requested:
            if row.state == "started":
                self._begun.setdefault(row.run, time.monotonic())
        elif row.state not in views.UNFINISHED:
            if row.state == "finished":
                self._before[row.tenant] = counted(row)
            del self._rows[row.run]

    def _current(self) -> list[RunRow]:
        return [row for run, row in sorted(self._rows.items()) if run in self._requested]

    def _tell(self) -> None:
        """Without a terminal: a line when a run ends."""
        for row in self._current():
            if row.state not in views.UNFINISHED and row.run not in self._told:
                self._told.add(row.run)
                self._session.say(
                    f"{row.tenant}  {row.state:<9} {counted(row):>9,} rows  {completed(row)} datasets complete"
                )

    def _table(self) -> Table:
        """As many tenants as fit below one another, those under way first."""
        table = Table(box=None, header_style="bold", pad_edge=False, caption=LEGEND, caption_justify="left")
        for column in ("tenant", "state", "rows", "rows/s", "datasets", "now", "left"):
            right = column in ("rows", "rows/s", "left")
            table.add_column(column, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
        rows = sorted(self._current(), key=lambda row: ORDER.get(row.state, 2))
        fitting = max(1, self._session.console.height - OTHER_LINES)
        for row in rows[:fitting]:
            count, reading = counted(row), self._reading.get(row.run, set())
            seconds = time.monotonic() - self._begun.get(row.run, time.monotonic())
            rate = f"{count / seconds:,.0f}" if seconds > 0.5 and row.state in views.UNFINISHED else ""
            table.add_row(
                Text(cell(self._names.get(row.tenant, row.tenant))[:LONGEST_NAME]),
                row.state,
                f"{count:,}",
                rate,
                marks(row, reading),
                under_way(row, reading),
                self._left(row, count, seconds),
            )
        ended = sum(row.state not in views.UNFINISHED for row in rows)
        total = f"{ended} of {len(rows)}"
        table.add_row(total, "ended", f"{sum(map(counted, rows)):,}", "", "", "", "", style="bold")
        return table

    def _left(self, row: RunRow, count: int, seconds: float) -> str:
        expected = self._before.get(row.tenant, 0)
        if row.state not in views.UNFINISHED or not count or expected <= count:
            return ""
        return f"{seconds * (expected - count) / count:.0f} s"


def counted(row: RunRow) -> int:
    return sum(one.rows for one in row.datasets)


def completed(row: RunRow) -> str:
    return f"{sum(one.outcome == 'complete' for one in row.datasets)}/{len(row.datasets)}"


def marks(row: RunRow, reading: Collection[str]) -> Text:
    """A mark for each dataset; those in `reading` were begun."""
    return Text.assemble(*(mark(one, one.dataset in reading) for one in row.datasets))


def mark(progress: DatasetProgress, begun: bool) -> tuple[str, str]:
    if progress.outcome is None:
        return RUNNING if begun else WAITING
    return MARKS[progress.outcome]


def under_way(row: RunRow, reading: Collection[str]) -> str:
    """The dataset that is read now, and how many others are; why a run failed."""
    if row.state != "started":
        return row.reason or ""
    now = [one.dataset for one in row.datasets if one.outcome is None and one.dataset in reading]
    return f"{now[0]}{f' +{len(now) - 1}' if len(now) > 1 else ''}" if now else ""
