"""Runs, as `tenantry run list` shows them: requested, started, ended, and how far each dataset is."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias, assert_never

import msgspec

from domain.events import (
    BatchRecorded,
    CollectionCompleted,
    CollectionEvent,
    CollectionNotPossible,
    CollectionRestarted,
    CollectionStarted,
    CollectionTruncated,
    DatasetOutcome,
    OutcomeKind,
    Recorded,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunFinished,
    RunRequested,
    RunResumed,
    RunStarted,
)
from domain.ids import Dataset, RunId, TenantId
from domain.run import ENDED, State
from projections.view import Filed, Place, Shape, View

UNFINISHED: tuple[State, ...] = ("requested", "started")
CANCELLED = "run-cancelled"
"""Why a dataset of a cancelled run is not complete."""


class DatasetProgress(msgspec.Struct, frozen=True, kw_only=True):
    """`outcome`: None until it is known; `rows` and `requests` then say how far it is."""

    dataset: Dataset
    outcome: OutcomeKind | None = None
    reason: str | None = None
    detail: str | None = None
    rows: int = 0
    requests: int = 0
    seconds: float = 0.0


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """`requested`, `started` and `finished`: when. `reason` and `detail`: of a run that failed or was cancelled."""

    run: RunId
    tenant: TenantId
    state: State
    requested: datetime
    requested_by: str
    started: datetime | None = None
    finished: datetime | None = None
    activation: str = ""
    epoch: int = 0
    full: bool = False
    reason: str | None = None
    detail: str | None = None
    datasets: tuple[DatasetProgress, ...] = ()


Runs: TypeAlias = View[RunRow]


def place(recorded: Recorded) -> Place | None:
    kind, _, key = recorded.stream.partition(":")
    if kind == "run":
        return Place("key", key)
    return Place("key", recorded.event.run) if isinstance(recorded.event, CollectionEvent) else None


def fold(row: RunRow | None, recorded: Recorded) -> RunRow | None:
    event, change = recorded.event, msgspec.structs.replace
    if isinstance(event, RunRequested):
        return RunRow(
            run=event.run,
            tenant=event.tenant,
            state="requested",
            requested=recorded.at,
            requested_by=recorded.actor,
            full=event.full,
            datasets=tuple(DatasetProgress(dataset=dataset) for dataset in event.datasets),
        )
    if row is None:
        return None
    if isinstance(event, RunEvent):
        return _run(row, event, recorded.at)
    if row.state in ENDED or not isinstance(event, CollectionEvent):
        return row
    dataset = Dataset(recorded.stream.rsplit(":", 1)[1])
    known = {progress.dataset: progress for progress in row.datasets}
    known[dataset] = _progress(known.get(dataset) or DatasetProgress(dataset=dataset), event)
    return change(row, datasets=tuple(known.values()))


def _run(row: RunRow, event: RunEvent, at: datetime) -> RunRow:
    change = msgspec.structs.replace
    match event:
        case RunRequested():
            return row
        case RunStarted() | RunResumed():
            started = row.started or at
            return change(row, state="started", started=started, activation=event.activation, epoch=event.epoch)
        case RunFinished():
            return change(row, state="finished", finished=at, datasets=_ended(row, event.outcomes))
        case RunFailed():
            datasets = _ended(row, event.outcomes)
            return change(row, state="failed", finished=at, reason=event.reason, detail=event.detail, datasets=datasets)
        case RunCancelled():
            datasets = tuple(_cancelled(one, event.reason) for one in row.datasets)
            return change(row, state="cancelled", finished=at, reason=event.reason, datasets=datasets)
        case _:
            assert_never(event)


def _cancelled(progress: DatasetProgress, why: str) -> DatasetProgress:
    """What had not ended never will."""
    if progress.outcome is not None:
        return progress
    outcome: OutcomeKind = "truncated" if progress.requests else "not-started"
    return msgspec.structs.replace(progress, outcome=outcome, reason=CANCELLED, detail=why)


def _progress(progress: DatasetProgress, event: CollectionEvent) -> DatasetProgress:
    change = msgspec.structs.replace
    match event:
        case CollectionStarted():
            return DatasetProgress(dataset=progress.dataset)
        case BatchRecorded():
            return change(progress, rows=progress.rows + event.rows, requests=progress.requests + event.requests)
        case CollectionRestarted():
            return change(progress, rows=0, requests=progress.requests + event.requests)
        case CollectionCompleted():
            return change(progress, outcome="complete", rows=event.rows, requests=event.requests, seconds=event.seconds)
        case CollectionTruncated():
            return change(
                progress,
                outcome="truncated",
                reason=event.reason,
                detail=event.detail,
                rows=event.rows,
                requests=event.requests,
                seconds=event.seconds,
            )
        case CollectionNotPossible():
            return change(
                progress,
                outcome="not-possible",
                reason=event.reason,
                detail=event.detail,
                requests=event.requests,
                seconds=event.seconds,
            )
        case _:
            assert_never(event)


def _ended(row: RunRow, outcomes: tuple[DatasetOutcome, ...]) -> tuple[DatasetProgress, ...]:
    """The outcomes that the run ended with; a dataset that they do not name keeps what is known."""
    named = {
        outcome.dataset: DatasetProgress(
            dataset=outcome.dataset,
            outcome=outcome.outcome,
            reason=outcome.reason,
            detail=outcome.detail,
            rows=outcome.rows,
            requests=outcome.requests,
            seconds=outcome.seconds,
        )
        for outcome in outcomes
    }
    kept = tuple(named.pop(progress.dataset, progress) for progress in row.datasets)
    return (*kept, *named.values())


RUNS: Shape[RunRow] = Shape("runs", RunRow, place, fold, lambda row: Filed(tenant=row.tenant, state=row.state))
