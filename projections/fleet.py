"""The fleet at a glance: which tenant is fresh, which is stale, and why."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, TypeAlias, assert_never

import msgspec

from domain import credential as credentials
from domain import tenant as tenants
from domain.credential import Credential
from domain.events import (
    BatchRecorded,
    CollectionCompleted,
    CollectionEvent,
    CollectionNotPossible,
    CollectionRestarted,
    CollectionStarted,
    CollectionTruncated,
    CredentialEvent,
    DatasetOutcome,
    Recorded,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunFinished,
    RunRequested,
    RunResumed,
    RunStarted,
    TenantEvent,
)
from domain.ids import ENTRA, Dataset, RunId, Slot, TenantId
from domain.run import ENDED
from domain.run import State as RunState
from domain.tenant import Tenant
from projections.runs import CANCELLED
from projections.view import Filed, Place, Shape, View

DatasetState = Literal["running", "complete", "truncated", "not-possible", "not-started"]

INCOMPLETE: tuple[DatasetState, ...] = ("truncated", "not-started", "not-possible")
GRACE = 1.5
"""A dataset is stale when its last complete collection is older than this many cadences."""


class DatasetStanding(msgspec.Struct, frozen=True, kw_only=True):
    """The current or last collection of a dataset, and since when its rows are complete. `rows`: of that collection."""

    dataset: Dataset
    state: DatasetState
    run: RunId | None = None
    reason: str | None = None
    detail: str | None = None
    rows: int = 0
    last_complete: datetime | None = None


class LastRun(msgspec.Struct, frozen=True, kw_only=True):
    run: RunId
    state: RunState
    requested: datetime
    ended: datetime | None = None
    reason: str | None = None
    detail: str | None = None


class FleetRow(msgspec.Struct, frozen=True, kw_only=True):
    tenant: Tenant
    credentials: dict[Slot, Credential] = {}
    last_run: LastRun | None = None
    datasets: dict[Dataset, DatasetStanding] = {}


class FleetLine(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as it is shown. `last_complete`: of its most outdated dataset. `why`: what stands in the way, if any."""

    tenant: TenantId
    name: str
    domain: str
    cloud: str
    state: str
    credential: str
    last_run: RunId | None
    last_run_state: str | None
    last_run_at: datetime | None
    last_complete: datetime | None
    rows: int
    stale: bool
    why: str | None
    datasets: tuple[DatasetStanding, ...]


Fleet: TypeAlias = View[FleetRow]


def place(recorded: Recorded) -> Place | None:
    """Run events name their tenant only when requested; the row is found by its last run after that."""
    kind, _, key = recorded.stream.partition(":")
    if kind in ("tenant", "credential", "collection"):
        return Place("key", key.partition(":")[0])
    if isinstance(recorded.event, RunRequested):
        return Place("key", recorded.event.tenant)
    return Place("link", key) if kind == "run" else None


def fold(row: FleetRow | None, recorded: Recorded) -> FleetRow | None:
    event, change = recorded.event, msgspec.structs.replace
    if isinstance(event, TenantEvent):
        tenant = tenants.evolve(row.tenant if row else None, event)
        if tenant is None:
            return None
        return change(row, tenant=tenant) if row else FleetRow(tenant=tenant)
    if row is None:
        return None
    if isinstance(event, CredentialEvent):
        slot = Slot(recorded.stream.rsplit(":", 1)[1])
        credential = credentials.evolve(row.credentials.get(slot), event)
        return change(row, credentials={**row.credentials, slot: credential}) if credential else row
    if isinstance(event, CollectionEvent):
        dataset = Dataset(recorded.stream.rsplit(":", 1)[1])
        before = row.datasets.get(dataset) or DatasetStanding(dataset=dataset, state="running")
        return change(row, datasets={**row.datasets, dataset: _standing(before, event, recorded.at)})
    return _run(row, event, recorded.at) if isinstance(event, RunEvent) else row


def _standing(before: DatasetStanding, event: CollectionEvent, at: datetime) -> DatasetStanding:
    change = msgspec.structs.replace
    match event:
        case CollectionStarted():
            return change(before, state="running", run=event.run, reason=None, detail=None, rows=0)
        case BatchRecorded():
            return change(before, rows=before.rows + event.rows)
        case CollectionRestarted():
            return change(before, rows=0)
        case CollectionCompleted():
            return change(before, state="complete", rows=event.rows, last_complete=at)
        case CollectionTruncated():
            return change(before, state="truncated", rows=event.rows, reason=event.reason, detail=event.detail)
        case CollectionNotPossible():
            return change(before, state="not-possible", reason=event.reason, detail=event.detail)
        case _:
            assert_never(event)


def _run(row: FleetRow, event: RunEvent, at: datetime) -> FleetRow:
    change = msgspec.structs.replace
    if isinstance(event, RunRequested):
        return change(row, last_run=LastRun(run=event.run, state="requested", requested=at))
    last = row.last_run
    if last is None:
        return row
    match event:
        case RunStarted() | RunResumed():
            return change(row, last_run=change(last, state="started"))
        case RunFinished():
            ended = change(last, state="finished", ended=at)
            return change(row, last_run=ended, datasets=_with_outcomes(row, last.run, event.outcomes))
        case RunFailed():
            ended = change(last, state="failed", ended=at, reason=event.reason, detail=event.detail)
            return change(row, last_run=ended, datasets=_with_outcomes(row, last.run, event.outcomes))
        case RunCancelled():
            ended = change(last, state="cancelled", ended=at, reason=CANCELLED, detail=event.reason)
            return change(row, last_run=ended, datasets=_cut_off(row, last.run, event.reason))
        case _:
            assert_never(event)


def _cut_off(row: FleetRow, run: RunId, why: str) -> dict[Dataset, DatasetStanding]:
    """What a run that was cancelled had begun never ends."""
    return {
        dataset: msgspec.structs.replace(standing, state="truncated", reason=CANCELLED, detail=why)
        if (standing.state, standing.run) == ("running", run)
        else standing
        for dataset, standing in row.datasets.items()
    }


def _with_outcomes(row: FleetRow, run: RunId, outcomes: tuple[DatasetOutcome, ...]) -> dict[Dataset, DatasetStanding]:
    """What the run says of datasets that ended incomplete, the never started among them."""
    datasets = dict(row.datasets)
    for outcome in outcomes:
        if outcome.outcome != "complete":
            before = datasets.get(outcome.dataset) or DatasetStanding(dataset=outcome.dataset, state="not-started")
            datasets[outcome.dataset] = msgspec.structs.replace(
                before, state=outcome.outcome, run=run, reason=outcome.reason, detail=outcome.detail
            )
    return datasets


FLEET: Shape[FleetRow] = Shape(
    "fleet",
    FleetRow,
    place,
    fold,
    lambda row: Filed(tenant=row.tenant.id, state=row.tenant.state, link=row.last_run.run if row.last_run else ""),
)


def line(row: FleetRow, now: datetime) -> FleetLine:
    """A tenant as it stands at `now`."""
    wanted = _wanted(row)
    collected = [standing for standing in wanted if standing.state != "not-possible"]
    complete = [standing.last_complete for standing in collected]
    oldest = min((at for at in complete if at is not None), default=None) if None not in complete else None
    stale = oldest is None or now - oldest > GRACE * timedelta(seconds=row.tenant.cadence_seconds)
    last, credential = row.last_run, row.credentials.get(ENTRA)
    return FleetLine(
        tenant=row.tenant.id,
        name=row.tenant.name,
        domain=row.tenant.domain,
        cloud=row.tenant.cloud,
        state=row.tenant.state,
        credential=credential.state if credential else "none",
        last_run=last.run if last else None,
        last_run_state=last.state if last else None,
        last_run_at=last.requested if last else None,
        last_complete=oldest,
        rows=sum(standing.rows for standing in wanted),
        stale=stale and row.tenant.state == "active",
        why=_why(row, wanted, now, stale=stale),
        datasets=tuple(sorted(wanted, key=lambda standing: standing.dataset)),
    )


def _wanted(row: FleetRow) -> list[DatasetStanding]:
    """The datasets of the plan, the never collected among them; of the whole catalog those that are known here."""
    return [
        row.datasets.get(dataset) or DatasetStanding(dataset=dataset, state="not-started")
        for dataset in dict.fromkeys(row.tenant.datasets or row.datasets)
    ]


def _why(row: FleetRow, wanted: list[DatasetStanding], now: datetime, *, stale: bool) -> str | None:
    """The first thing that stands in the way, as a short stable word with its subject; None when nothing does."""
    if row.tenant.state != "active":
        return f"{row.tenant.state}: {row.tenant.reason}"
    entra = row.credentials.get(ENTRA)
    if entra is None:
        return "no-credential"
    for slot, credential in sorted(row.credentials.items()):
        if credential.state == "revoked":
            return f"revoked ({slot})"
        if credential.refusals:
            return f"{credential.refusals[-1].category} ({slot})"
        if credential.expires is not None and credential.expires <= now:
            return f"expired ({slot})"
    if row.last_run is None:
        return "never-collected"
    if row.last_run.state in ("failed", "cancelled"):
        return row.last_run.reason
    under_way = row.last_run.state not in ENDED
    known = [standing for standing in wanted if standing.run is not None or not under_way]
    incomplete = [standing for standing in known if standing.state in INCOMPLETE]
    if incomplete:
        return ", ".join(
            sorted({f"{standing.reason or standing.state} ({standing.dataset})" for standing in incomplete})
        )
    return "overdue" if stale and not under_way else None
