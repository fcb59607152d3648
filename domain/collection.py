"""A collection: one pass over one dataset of one tenant.

It ends `complete`, or says what is missing. A truncated pass never completes and nothing is concluded from what it did
not see: only a complete pass moves the delta link or the watermark. A batch counts when it continues the pass exactly
where the last one left it, so the same batch reported twice, or by a stale activation, counts once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, assert_never

import msgspec

from domain.errors import NotAllowed, ProtocolViolation
from domain.events import (
    BatchRecorded,
    CollectionCompleted,
    CollectionEvent,
    CollectionNotPossible,
    CollectionRestarted,
    CollectionStarted,
    CollectionTruncated,
    Mode,
)
from domain.ids import RunId

State = Literal["never", "running", "complete", "truncated", "not-possible"]


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """The current or last pass, and what the last complete one left for the next."""

    state: State = "never"
    run: RunId | None = None
    mode: Mode = "full"
    since: str | None = None
    window: tuple[datetime, datetime] | None = None
    lost: tuple[datetime, datetime] | None = None
    cursor: str | None = None
    rows: int = 0
    requests: int = 0
    batches: int = 0
    restarts: int = 0
    last_digest: str | None = None
    last_after: str | None = None
    reason: str = ""
    detail: str = ""
    seconds: float = 0.0
    delta_link: str | None = None
    watermark: datetime | None = None


def evolve(state: Collection, event: CollectionEvent) -> Collection:
    change = msgspec.structs.replace
    match event:
        case CollectionStarted():
            return Collection(
                state="running",
                run=event.run,
                mode=event.mode,
                since=event.since,
                window=event.window,
                lost=event.lost or None,
                delta_link=state.delta_link,
                watermark=state.watermark,
            )
        case BatchRecorded():
            return change(
                state,
                cursor=event.cursor,
                rows=state.rows + event.rows,
                requests=state.requests + event.requests,
                batches=state.batches + 1,
                last_digest=event.digest,
                last_after=event.after,
            )
        case CollectionRestarted():
            return change(
                state,
                mode=event.mode,
                since=state.since if event.mode == "delta" else None,
                cursor=None,
                rows=0,
                requests=state.requests + event.requests,
                batches=0,
                restarts=state.restarts + 1,
                last_digest=None,
                last_after=None,
            )
        case CollectionCompleted():
            return change(
                state,
                state="complete",
                rows=event.rows,
                requests=event.requests,
                seconds=event.seconds,
                delta_link=event.delta_link,
                watermark=event.watermark,
            )
        case CollectionTruncated():
            return change(
                state,
                state="truncated",
                reason=event.reason,
                detail=event.detail,
                rows=event.rows,
                requests=event.requests,
                seconds=event.seconds,
            )
        case CollectionNotPossible():
            return change(
                state,
                state="not-possible",
                reason=event.reason,
                detail=event.detail,
                requests=event.requests,
                seconds=event.seconds,
            )
        case _:
            assert_never(event)


def start(state: Collection, event: CollectionStarted) -> list[CollectionEvent]:
    """Begins a pass. The same run goes on where it was; a pass that an earlier run left open is closed as truncated."""
    if state.run == event.run and state.state != "never":
        return []
    left_open: list[CollectionEvent] = []
    if state.state == "running" and state.run is not None:
        left_open.append(
            CollectionTruncated(
                run=state.run,
                reason="run-ended",
                detail="The run ended before this dataset did.",
                cursor=state.cursor,
                rows=state.rows,
                requests=state.requests,
                seconds=0.0,
            )
        )
    return [*left_open, event]


def record_batch(state: Collection, batch: BatchRecorded) -> list[CollectionEvent]:
    """Counts a batch that goes on at the cursor; one that is already counted changes nothing; any other is refused.

    Raises `NotAllowed`, and `ProtocolViolation` for a batch that does not move the cursor: it would count every time.
    """
    _running(state, batch.run, "record a batch")
    if batch.cursor == batch.after:
        raise ProtocolViolation("The collector", "a batch that leaves the cursor where it was")
    if batch.after == state.cursor:
        return [batch]
    if (batch.after, batch.digest, batch.cursor) == (state.last_after, state.last_digest, state.cursor):
        return []
    raise NotAllowed("record a batch", "it does not go on where the last one ended", "Read on from the cursor.")


def restart(state: Collection, run: RunId, reason: str, mode: Mode, *, requests: int) -> list[CollectionEvent]:
    _running(state, run, "restart the collection")
    return [CollectionRestarted(run=run, reason=reason, mode=mode, requests=requests)]


def complete(
    state: Collection,
    run: RunId,
    *,
    requests: int,
    seconds: float,
    expected: int | None = None,
    expected_by: str | None = None,
    delta_link: str | None = None,
    watermark: datetime | None = None,
) -> list[CollectionEvent]:
    """`requests`: those after the last batch. Rows are those of the recorded batches, never a number from outside."""
    _running(state, run, "complete the collection")
    return [
        CollectionCompleted(
            run=run,
            rows=state.rows,
            requests=state.requests + requests,
            restarts=state.restarts,
            seconds=seconds,
            expected=expected,
            expected_by=expected_by,
            delta_link=delta_link,
            watermark=watermark,
        )
    ]


def truncate(
    state: Collection, run: RunId, *, reason: str, detail: str, requests: int, seconds: float
) -> list[CollectionEvent]:
    _running(state, run, "truncate the collection")
    return [
        CollectionTruncated(
            run=run,
            reason=reason,
            detail=detail,
            cursor=state.cursor,
            rows=state.rows,
            requests=state.requests + requests,
            seconds=seconds,
        )
    ]


def not_possible(
    state: Collection, run: RunId, *, reason: str, detail: str, requests: int, seconds: float
) -> list[CollectionEvent]:
    """At the beginning of a pass. After a batch it left a part of the whole, and that is truncated."""
    if state.batches:
        return truncate(state, run, reason=reason, detail=detail, requests=requests, seconds=seconds)
    _running(state, run, "end the collection")
    return [
        CollectionNotPossible(
            run=run, reason=reason, detail=detail, requests=state.requests + requests, seconds=seconds
        )
    ]


def _running(state: Collection, run: RunId, command: str) -> None:
    if state.state != "running" or state.run != run:
        raise NotAllowed(command, f"no pass of run {run} is under way", "Start one first.")
