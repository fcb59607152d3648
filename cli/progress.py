"""Progress of runs, read from the event store like everybody else reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.command import Session
from cli.output import cell
from domain.events import CollectionRestarted, CollectionStarted, Mode
from domain.ids import Dataset, RunId, TenantId
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
SHORTEST_SECONDS = 0.5
"""Before that a rate would say little."""


class Begun(NamedTuple):
    """When this process first saw a run at work, in seconds of its clock, and the rows that were there already."""

    at: float
    rows: int


class Progress:
    """A line for each tenant: rows, rate, state of each dataset; and time left, where each dataset that is not at its
    end was read before in the same mode: by the rows that it had then."""

    def __init__(
        self,
        session: Session,
        store: EventStore,
        requested: Sequence[RunId],
        names: Mapping[TenantId, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._follower = Follower(store)
        self._requested = set(requested)
        self._names = names
        self._clock = clock
        self._rows: dict[str, RunRow] = {}
        self._begun: dict[str, Begun] = {}
        self._modes: dict[str, dict[Dataset, Mode]] = {}
        self._before: dict[tuple[TenantId, Dataset, Mode], int] = {}
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
                if isinstance(recorded.event, CollectionStarted | CollectionRestarted):
                    dataset = Dataset(recorded.stream.rpartition(":")[2])
                    self._modes.setdefault(place.value, {})[dataset] = recorded.event.mode
                row = views.fold(self._rows.get(place.value), recorded)
                if row is not None:
                    self._rows[place.value] = row
                    if row.run not in self._requested and row.state not in views.UNFINISHED:
                        self._remember(row)
        for row in self._current():
            if row.state == "started":
                self._begun.setdefault(row.run, Begun(self._clock(), counted(row)))
        if self._live:
            self._live.update(self.table())
        else:
            self._tell()

    def _remember(self, row: RunRow) -> None:
        """Of a run that is over, what its datasets came to."""
        modes = self._modes.pop(row.run, {})
        for one in row.datasets:
            if one.outcome == "complete" and one.dataset in modes:
                self._before[row.tenant, one.dataset, modes[one.dataset]] = one.rows
        del self._rows[row.run]

    def _current(self) -> list[RunRow]:
        return [row for run, row in sorted(self._rows.items()) if run in self._requested]

    def _tell(self) -> None:
        """Without a terminal: a line when a run ends."""
        for row in self._current():
            if row.state not in views.UNFINISHED and row.run not in self._told:
                self._told.add(row.run)
                name = cell(self._names.get(row.tenant, ""))
                self._session.say(
                    f"{name} ({row.tenant})  {row.state:<9} {counted(row):>9,} rows  {completed(row)} datasets complete"
                )

    def table(self) -> Table:
        """As many tenants as fit below one another, those under way first."""
        table = Table(box=None, header_style="bold", pad_edge=False, caption=LEGEND, caption_justify="left")
        for column in ("tenant", "state", "rows", "rows/s", "datasets", "now", "left"):
            right = column in ("rows", "rows/s", "left")
            table.add_column(column, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
        rows = sorted(self._current(), key=lambda row: ORDER.get(row.state, 2))
        fitting = max(1, self._session.console.height - OTHER_LINES)
        for row in rows[:fitting]:
            reading = self._modes.get(row.run, {})
            rate = self._rate(row)
            table.add_row(
                Text(cell(self._names.get(row.tenant, row.tenant))[:LONGEST_NAME]),
                row.state,
                f"{counted(row):,}",
                "" if rate is None else f"{rate:,.0f}",
                marks(row, reading),
                under_way(row, reading),
                self._left(row, rate),
            )
        ended = sum(row.state not in views.UNFINISHED for row in rows)
        total = f"{ended} of {len(rows)}"
        table.add_row(total, "ended", f"{sum(map(counted, rows)):,}", "", "", "", "", style="bold")
        return table

    def _rate(self, row: RunRow) -> float | None:
        """Rows a second since it was first seen at work; None when that says nothing yet, or nothing any more."""
        begun = self._begun.get(row.run)
        if begun is None or row.state not in views.UNFINISHED:
            return None
        seconds = self._clock() - begun.at
        return max(0, counted(row) - begun.rows) / seconds if seconds > SHORTEST_SECONDS else None

    def _left(self, row: RunRow, rate: float | None) -> str:
        """Empty where nobody can know: a dataset was not read before, or has more rows than then."""
        modes, missing = self._modes.get(row.run, {}), 0
        for one in (one for one in row.datasets if one.outcome is None):
            mode = modes.get(one.dataset)
            before = self._before.get((row.tenant, one.dataset, mode)) if mode else None
            if before is None or before < one.rows:
                return ""
            missing += before - one.rows
        return f"{missing / rate:.0f} s" if rate and missing else ""


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
