from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from domain.errors import Unreadable
from domain.events import (
    AnyEvent,
    BatchRecorded,
    CollectionCompleted,
    CollectionNotPossible,
    CollectionRestarted,
    CollectionStarted,
    CollectionTruncated,
    CredentialRejected,
    CredentialRevoked,
    CredentialRotated,
    CredentialSealed,
    DatasetOutcome,
    PlanChanged,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunRequested,
    RunStarted,
    TenantRegistered,
    TenantSuspended,
)
from domain.ids import (
    ENTRA,
    Dataset,
    RunId,
    Stream,
    TenantId,
    collection_stream,
    credential_stream,
    run_stream,
    tenant_stream,
)
from eventstore.store import EventStore, open_event_store
from projections.fleet import FleetLine, line
from projections.runs import UNFINISHED
from projections.views import Views

AT = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
DAY = timedelta(days=1)
TENANT = TenantId("11111111-2222-3333-4444-555555555555")
OTHER = TenantId("99999999-2222-3333-4444-555555555555")
RUN = RunId("20261122T203000-0a1b2c3d")
LATER = RunId("20261123T203000-0a1b2c3d")
USERS, GROUPS = Dataset("entra.users"), Dataset("entra.groups")


class World:
    """A store in memory whose clock stands still unless it is set."""

    def __init__(self, path: Path) -> None:
        self.store: EventStore = open_event_store("memory:", os.urandom(32))
        self.views = Views(path)
        self.now = AT

    def say(self, stream: Stream, *events: AnyEvent) -> None:
        version = len(self.store.read(stream))
        self.store.append(stream, version, events, at=self.now, actor="schedule", cause="test")

    def register(self, tenant: TenantId = TENANT) -> None:
        self.say(
            tenant_stream(tenant),
            TenantRegistered(tenant=tenant, name="Contoso", domain="contoso.com", cloud="public"),
        )

    def seal(self, **changes: datetime) -> None:
        sealed = CredentialSealed(
            tenant=TENANT, slot=ENTRA, kind="app-secret", identity="i", vault_key="k", digest="d", **changes
        )
        self.say(credential_stream(TENANT, ENTRA), sealed)

    def start(self, run: RunId = RUN, *datasets: Dataset) -> None:
        self.say(run_stream(run), RunRequested(run=run, tenant=TENANT, datasets=datasets))
        self.say(run_stream(run), RunStarted(activation="a", epoch=1))

    def collect(self, *events: AnyEvent, dataset: Dataset = USERS) -> None:
        self.say(collection_stream(TENANT, dataset), *events)

    def complete(self, dataset: Dataset = USERS, run: RunId = RUN, rows: int = 5) -> None:
        self.collect(started(run), batch(rows, run), completed(rows, run), dataset=dataset)

    def line(self) -> FleetLine:
        self.views.catch_up(self.store)
        row = self.views.fleet.row(TENANT)
        assert row is not None
        return line(row, self.now)


def started(run: RunId = RUN) -> AnyEvent:
    return CollectionStarted(run=run, mode="full")


def batch(rows: int, run: RunId = RUN) -> AnyEvent:
    return BatchRecorded(
        run=run,
        key="k",
        data_key="d",
        rows=rows,
        row_bytes=1,
        stored_bytes=1,
        digest="",
        requests=2,
        after=None,
        cursor="c",
    )


def completed(rows: int, run: RunId = RUN) -> AnyEvent:
    return CollectionCompleted(run=run, rows=rows, requests=3, restarts=0, seconds=1.5)


def truncated(reason: str = "throttled", run: RunId = RUN) -> AnyEvent:
    return CollectionTruncated(run=run, reason=reason, detail="Wait.", cursor=None, rows=1, requests=1, seconds=1.0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "views.db")
    yield world
    world.views.close()


def test_a_fresh_tenant_is_not_stale_and_nothing_stands_in_the_way(world: World) -> None:
    world.register()
    world.seal()
    world.start(RUN, USERS)
    world.complete()
    world.say(run_stream(RUN), RunFinished(outcomes=(DatasetOutcome(dataset=USERS, outcome="complete", rows=5),)))
    shown = world.line()
    assert (shown.tenant, shown.name, shown.domain, shown.state) == (TENANT, "Contoso", "contoso.com", "active")
    assert (shown.last_run, shown.last_run_state, shown.last_run_at) == (RUN, "finished", AT)
    assert (shown.last_complete, shown.rows, shown.stale, shown.why) == (AT, 5, False, None)
    assert [(d.dataset, d.state, d.rows) for d in shown.datasets] == [(USERS, "complete", 5)]


def test_a_tenant_is_stale_when_its_last_complete_collection_is_older_than_its_cadence_allows(world: World) -> None:
    world.register()
    world.seal()
    world.start(RUN, USERS)
    world.complete()
    world.say(run_stream(RUN), RunFinished(outcomes=()))
    world.now = AT + 1.5 * DAY
    assert not world.line().stale
    world.now += timedelta(seconds=1)
    assert (world.line().stale, world.line().why) == (True, "overdue")
    world.say(tenant_stream(TENANT), PlanChanged(datasets=(), cadence_seconds=7 * 86400))
    assert not world.line().stale


def test_a_truncated_collection_keeps_the_time_of_the_last_complete_one(world: World) -> None:
    world.register()
    world.seal()
    world.start(RUN, USERS)
    world.complete()
    world.now = AT + DAY
    world.start(LATER, USERS)
    world.collect(started(LATER), batch(1, LATER), truncated(run=LATER))
    shown = world.line()
    assert (shown.last_complete, shown.why) == (AT, "throttled (entra.users)")
    assert (shown.datasets[0].state, shown.datasets[0].detail) == ("truncated", "Wait.")


def test_the_most_outdated_dataset_decides(world: World) -> None:
    world.register()
    world.seal()
    world.start(RUN, USERS, GROUPS)
    world.complete(USERS)
    world.now = AT + DAY
    world.complete(GROUPS)
    assert world.line().last_complete == AT
    world.collect(started(), dataset=Dataset("entra.devices"))
    assert (world.line().last_complete, world.line().stale) == (None, True)


def test_what_is_not_possible_makes_no_tenant_stale_but_is_said(world: World) -> None:
    world.register()
    world.seal()
    world.start(RUN, USERS, GROUPS)
    world.complete(USERS)
    impossible = CollectionNotPossible(run=RUN, reason="unlicensed", detail="Buy it.", requests=1, seconds=0.1)
    world.collect(started(), impossible, dataset=GROUPS)
    assert (world.line().stale, world.line().why) == (False, "unlicensed (entra.groups)")


def test_a_dataset_outside_the_plan_is_not_shown(world: World) -> None:
    world.register()
    world.complete(USERS)
    world.collect(started(), truncated(), dataset=GROUPS)
    world.say(tenant_stream(TENANT), PlanChanged(datasets=(USERS,), cadence_seconds=86400))
    assert [d.dataset for d in world.line().datasets] == [USERS]


def test_a_dataset_of_the_plan_that_was_never_collected_leaves_the_tenant_stale_and_is_said(world: World) -> None:
    world.register()
    world.seal()
    world.start(RUN, USERS)
    world.complete(USERS)
    ended = DatasetOutcome(dataset=USERS, outcome="complete")
    world.say(run_stream(RUN), RunFinished(outcomes=(ended,)))
    assert (world.line().stale, world.line().why) == (False, None)
    world.say(tenant_stream(TENANT), PlanChanged(datasets=(USERS, GROUPS), cadence_seconds=86400))
    shown = world.line()
    assert (shown.stale, shown.last_complete, shown.why) == (True, None, "not-started (entra.groups)")
    world.start(LATER, USERS, GROUPS)
    assert world.line().why is None
    world.complete(GROUPS, LATER)
    assert world.line().stale is False


def test_what_stands_in_the_way_of_signing_in_is_said_first(world: World) -> None:
    world.register()
    assert world.line().why == "no-credential"
    world.seal(expires=AT + DAY)
    assert world.line().why == "never-collected"
    stream = credential_stream(TENANT, ENTRA)
    world.say(
        stream, CredentialRejected(code=50076, category="mfa-required", permanent=True, run=None, resource="graph")
    )
    assert (world.line().why, world.line().credential) == ("mfa-required (entra)", "rejected")
    rejected = world.store.read(stream)[-1].event
    world.say(stream, CredentialRevoked(reason="leaked"))
    assert (world.line().why, world.line().credential) == ("revoked (entra)", "revoked")
    world.seal(expires=AT + DAY)
    world.say(stream, rejected)
    world.say(stream, CredentialRotated(kind="app-secret", identity="i", vault_key="k", digest="e", expires=AT + DAY))
    assert world.line().why == "never-collected"
    world.now = AT + DAY
    assert world.line().why == "expired (entra)"
    world.say(stream, CredentialRevoked(reason="leaked"))
    assert world.line().why == "revoked (entra)"
    world.say(tenant_stream(TENANT), TenantSuspended(reason="unpaid"))
    assert (world.line().why, world.line().stale) == ("suspended: unpaid", False)


def test_a_failed_run_says_why_and_which_datasets_never_started(world: World) -> None:
    world.register()
    world.seal()
    world.start(RUN, USERS)
    never = DatasetOutcome(dataset=USERS, outcome="not-started", reason="consent-missing")
    world.say(run_stream(RUN), RunFailed(reason="consent-missing", detail="Consent.", outcomes=(never,)))
    shown = world.line()
    assert (shown.last_run_state, shown.why, shown.stale) == ("failed", "consent-missing", True)
    assert (shown.datasets[0].state, shown.datasets[0].reason) == ("not-started", "consent-missing")


def test_events_of_a_run_that_is_not_the_last_leave_the_last_one_alone(world: World) -> None:
    world.register()
    world.start(RUN)
    world.start(LATER)
    world.say(run_stream(RUN), RunCancelled(reason="no"))
    assert (world.line().last_run, world.line().last_run_state) == (LATER, "started")


def test_a_run_is_listed_with_how_far_its_datasets_are(world: World) -> None:
    world.start(RUN, USERS, GROUPS)
    world.collect(started(), batch(10), CollectionRestarted(run=RUN, reason="410", mode="full"), batch(4), batch(3))
    world.views.catch_up(world.store)
    (run,) = world.views.runs.rows()
    assert (run.run, run.tenant, run.state, run.requested, run.started, run.finished) == (
        *(RUN, TENANT, "started"),
        *(AT, AT, None),
    )
    assert [(d.dataset, d.outcome, d.rows, d.requests) for d in run.datasets] == [
        (USERS, None, 7, 6),
        (GROUPS, None, 0, 0),
    ]


def test_a_finished_run_is_listed_with_its_outcomes(world: World) -> None:
    world.start(RUN, USERS)
    outcomes = (
        DatasetOutcome(dataset=GROUPS, outcome="truncated", reason="throttled", detail="x", rows=1, requests=2),
        DatasetOutcome(dataset=USERS, outcome="complete", rows=5, requests=3, seconds=1.5),
    )
    world.complete()
    world.now = AT + timedelta(minutes=5)
    world.say(run_stream(RUN), RunFinished(outcomes=outcomes))
    world.collect(truncated("run-ended"))
    world.views.catch_up(world.store)
    (run,) = world.views.runs.rows()
    assert (run.state, run.finished) == ("finished", world.now)
    assert [(d.dataset, d.outcome, d.reason, d.rows, d.requests, d.seconds) for d in run.datasets] == [
        (USERS, "complete", None, 5, 3, 1.5),
        (GROUPS, "truncated", "throttled", 1, 2, 0.0),
    ]


def test_runs_are_found_by_tenant_and_state_newest_first(world: World) -> None:
    world.start(RUN)
    world.start(LATER)
    world.say(run_stream(RUN), RunFinished(outcomes=()))
    world.views.catch_up(world.store)
    runs = world.views.runs
    assert [row.run for row in runs.rows(newest=True)] == [LATER, RUN]
    assert [row.run for row in runs.rows(newest=True, limit=1)] == [LATER]
    assert [row.run for row in runs.rows(states=UNFINISHED)] == [LATER]
    assert [row.run for row in runs.rows(tenant=TENANT, states=("finished", "failed"))] == [RUN]
    assert runs.rows(tenant=OTHER) == ()
    assert runs.row("none") is None


def test_a_view_that_was_deleted_is_made_again_from_the_events(world: World, tmp_path: Path) -> None:
    world.register()
    world.seal()
    world.start(RUN, USERS)
    world.complete()
    shown = world.line()
    with Views(tmp_path / "again.db") as again:
        again.catch_up(world.store)
        row = again.fleet.row(TENANT)
        assert row is not None
        assert line(row, world.now) == shown
        assert again.fleet.position() == world.store.last_position()


def test_an_event_delivered_twice_counts_once(world: World) -> None:
    world.start(RUN, USERS)
    world.collect(started(), batch(5))
    events = world.store.follow(0)
    for until in (1, 3, 2, len(events), len(events)):
        world.views.runs.take(events[:until])
    (run,) = world.views.runs.rows()
    assert run.datasets[0].rows == 5


def test_a_view_of_another_store_begins_again(world: World) -> None:
    world.start(RUN, USERS)
    world.start(LATER, USERS)
    world.views.catch_up(world.store)
    world.store = open_event_store("memory:", os.urandom(32))
    world.say(run_stream(RUN), RunRequested(run=RUN, tenant=OTHER, datasets=()))
    world.views.catch_up(world.store)
    assert [(row.run, row.tenant) for row in world.views.runs.rows()] == [(RUN, OTHER)]
    assert world.views.runs.position() == 1


def test_processes_that_follow_at_once_count_every_event_once(world: World, tmp_path: Path) -> None:
    world.start(RUN, USERS)
    world.collect(started(), *(batch(1) for _ in range(2000)))
    followers = [Views(tmp_path / "views.db") for _ in range(3)]
    threads = [threading.Thread(target=views.runs.catch_up, args=(world.store,)) for views in followers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = world.views.runs.rows()
    assert run.datasets[0].rows == 2000
    for views in followers:
        views.close()


def test_a_file_of_another_shape_is_replaced(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "views.db")
    database.execute("CREATE TABLE runs (something)")
    database.execute("PRAGMA user_version=99")
    database.close()
    with Views(tmp_path / "views.db") as views:
        assert views.runs.rows() == ()
    assert [path.name for path in tmp_path.iterdir()] == ["views.db"]


def test_a_file_that_is_no_database_is_unreadable_and_kept(tmp_path: Path) -> None:
    (tmp_path / "views.db").write_bytes(b"something else" * 1000)
    with pytest.raises(Unreadable):
        Views(tmp_path / "views.db")
    assert (tmp_path / "views.db").read_bytes() == b"something else" * 1000


def test_several_processes_may_make_the_file_at_once(tmp_path: Path) -> None:
    made: list[Views] = []
    threads = [threading.Thread(target=lambda: made.append(Views(tmp_path / "views.db"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [views.runs.position() for views in made] == [0] * 8
    for views in made:
        views.close()


def test_a_run_that_was_cancelled_leaves_no_dataset_running_and_is_told(tmp_path: Path) -> None:
    world = World(tmp_path / "views.db")
    world.register()
    world.seal()
    world.start(RUN, USERS, GROUPS)
    world.complete()
    world.complete(GROUPS)
    world.say(run_stream(RUN), RunFinished(outcomes=()))
    world.start(LATER, USERS, GROUPS)
    world.collect(started(LATER), batch(3, LATER))
    world.say(run_stream(LATER), RunCancelled(reason="given up: the collector died"))

    line = world.line()
    assert line.why == "run-cancelled"
    (groups, users) = line.datasets
    assert (groups.state, users.state, users.reason) == ("complete", "truncated", "run-cancelled")
    row = world.views.runs.row(LATER)
    assert row is not None
    assert [(one.outcome, one.reason, one.detail, one.rows) for one in row.datasets] == [
        ("truncated", "run-cancelled", "given up: the collector died", 3),
        ("not-started", "run-cancelled", "given up: the collector died", 0),
    ]
