"""The passes of one collection stream, and which of their batches may say that something is gone.

A pass is made of attempts: reading begins again after `CollectionRestarted`, and only the batches of the last attempt
belong to the result of the pass. The earlier ones are rows that were seen, no more. An attempt is *whole* when it asks
for everything there is; only a whole attempt of a complete pass replaces what was known before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from domain.errors import EventUnreadable
from domain.events import (
    BatchRecorded,
    CollectionCompleted,
    CollectionNotPossible,
    CollectionRestarted,
    CollectionStarted,
    CollectionTruncated,
    Mode,
    Recorded,
    stored_name,
)
from domain.ids import RunId

PassState = Literal["running", "complete", "truncated", "not-possible"]
ENDS: dict[type, PassState] = {
    CollectionCompleted: "complete",
    CollectionTruncated: "truncated",
    CollectionNotPossible: "not-possible",
}
WHOLE_MODES: frozenset[Mode] = frozenset({"full", "report", "per-item"})


class CountedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that counts: where it is stored, SHA-256 of its rows, how many, and when it was recorded by which run."""

    key: str
    digest: str
    rows: int
    at: datetime
    run: RunId


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """Reading from one beginning. `since`: the delta link it began at."""

    mode: Mode
    since: str | None = None
    batches: tuple[CountedBatch, ...] = ()

    @property
    def whole(self) -> bool:
        """It asks for everything: a delta without a delta link is the first round, which lists all there is."""
        return self.mode in WHOLE_MODES or (self.mode == "delta" and self.since is None)


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """One collection. `ended` and `reason` stay None and empty while it runs; `attempts` holds at least one."""

    run: RunId
    state: PassState
    started: datetime
    attempts: tuple[Attempt, ...]
    ended: datetime | None = None
    reason: str = ""

    @property
    def mode(self) -> Mode:
        return self.attempts[-1].mode

    @property
    def complete(self) -> bool:
        return self.state == "complete"

    @property
    def replaces(self) -> bool:
        """What it did not see is gone."""
        return self.complete and self.attempts[-1].whole

    @property
    def batches(self) -> tuple[CountedBatch, ...]:
        """Those of the last attempt: the result of the pass."""
        return self.attempts[-1].batches

    @property
    def rows(self) -> int:
        return sum(batch.rows for batch in self.batches)


class _Open:
    """A pass while it is folded: lists grow, so that a pass of many batches is not copied for each of them."""

    def __init__(self, recorded: Recorded, started: CollectionStarted) -> None:
        self.run = started.run
        self.started = recorded.at
        self.since = started.since
        self.attempts: list[tuple[Mode, str | None, list[CountedBatch]]] = [(started.mode, started.since, [])]
        self.state: PassState = "running"
        self.ended: datetime | None = None
        self.reason = ""

    def add(self, recorded: Recorded, batch: BatchRecorded) -> None:
        counted = CountedBatch(key=batch.key, digest=batch.digest, rows=batch.rows, at=recorded.at, run=batch.run)
        self.attempts[-1][2].append(counted)

    def restart(self, mode: Mode) -> None:
        self.since = self.since if mode == "delta" else None
        self.attempts.append((mode, self.since, []))

    def end(self, recorded: Recorded, state: PassState, reason: str) -> None:
        self.state, self.ended, self.reason = state, recorded.at, reason

    def freeze(self) -> Pass:
        return Pass(
            run=self.run,
            state=self.state,
            started=self.started,
            attempts=tuple(
                Attempt(mode=mode, since=since, batches=tuple(batches)) for mode, since, batches in self.attempts
            ),
            ended=self.ended,
            reason=self.reason,
        )


def fold_batches(events: Iterable[Recorded]) -> list[Pass]:
    """The passes in their order. Raises `EventUnreadable` for an event that belongs to no pass."""
    passes: list[_Open] = []
    for recorded in events:
        match recorded.event:
            case CollectionStarted() as started:
                passes.append(_Open(recorded, started))
            case BatchRecorded() as batch:
                _current(passes, recorded).add(recorded, batch)
            case CollectionRestarted() as restarted:
                _current(passes, recorded).restart(restarted.mode)
            case CollectionCompleted() | CollectionTruncated() | CollectionNotPossible() as end:
                reason = "" if isinstance(end, CollectionCompleted) else end.reason
                _current(passes, recorded).end(recorded, ENDS[type(end)], reason)
            case _:
                raise _misplaced(recorded, "it is no event of a collection")
    return [one.freeze() for one in passes]


def showing(passes: Sequence[Pass]) -> Sequence[Pass]:
    """Those that a table (of no log) is made of: the last one that replaces all before it, and what followed."""
    return passes[max((place for place, one in enumerate(passes) if one.replaces), default=0) :]


def _current(passes: list[_Open], recorded: Recorded) -> _Open:
    if not passes or passes[-1].ended is not None:
        raise _misplaced(recorded, "no pass is under way")
    return passes[-1]


def _misplaced(recorded: Recorded, why: str) -> EventUnreadable:
    return EventUnreadable(recorded.stream, recorded.version, stored_name(recorded.event), why)
