"""What every event store promises, in memory and in a file, and what the file adds: several processes, and kills."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import eventstore
from domain.errors import EventUnreadable, Malformed, StoreReplaced, StoreUnavailable, Unreadable, VersionConflict
from domain.events import AnyEvent, RunCancelled, RunStarted, TenantResumed, TenantSuspended
from domain.ids import LEDGER, RunId, Stream, TenantId, run_stream, tenant_stream
from eventstore.follower import Follower
from eventstore.store import Append, EventStore, create_event_store, open_event_store

AT = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
KEY = os.urandom(32)
RUN = run_stream(RunId("20261122T203000-0a1b2c3d"))
TENANT = tenant_stream(TenantId("11111111-2222-3333-4444-555555555555"))
REPOSITORY = Path(eventstore.__file__).parents[1]

Opener = Callable[[], EventStore]


def started(epoch: int) -> AnyEvent:
    return RunStarted(activation=f"activation-{epoch}", epoch=epoch)


def put(store: EventStore, stream: Stream, expected: int, *events: AnyEvent) -> list[int]:
    recorded = store.append(stream, expected, events, at=AT, actor="operator:test", cause="command-1")
    return [r.position for r in recorded]


class EventStoreContract:
    def test_what_was_appended_is_read_with_its_version_position_time_actor_and_cause(self, store: EventStore) -> None:
        appended = store.append(RUN, 0, [started(1), started(2)], at=AT, actor="schedule", cause="command-7")
        assert store.read(RUN) == appended
        assert [(r.version, r.position, r.at, r.actor, r.cause) for r in appended] == [
            (1, 1, AT, "schedule", "command-7"),
            (2, 2, AT, "schedule", "command-7"),
        ]
        assert [r.event for r in appended] == [started(1), started(2)]

    def test_a_stream_is_read_past_a_version(self, store: EventStore) -> None:
        put(store, RUN, 0, *(started(n) for n in range(1, 2501)))
        assert [r.version for r in store.read(RUN)] == list(range(1, 2501))
        assert [r.version for r in store.read(RUN, after=2498)] == [2499, 2500]
        assert store.read(RUN, after=2500) == ()

    def test_several_streams_are_read_at_one_moment_each_past_its_version(self, store: EventStore) -> None:
        put(store, RUN, 0, *(started(n) for n in range(1, 2501)))
        put(store, TENANT, 0, TenantSuspended(reason="late"), TenantResumed())
        found = store.read_all({RUN: 1, TENANT: 1, LEDGER: 0})
        assert [r.version for r in found[RUN]] == list(range(2, 2501))
        assert [r.event for r in found[TENANT]] == [TenantResumed()]
        assert found[LEDGER] == []

    def test_an_unknown_stream_is_empty(self, store: EventStore) -> None:
        assert store.read(RUN) == ()
        assert store.last_position() == 0
        assert store.follow(0) == ()

    def test_a_version_that_somebody_else_appended_is_a_conflict(self, store: EventStore) -> None:
        put(store, RUN, 0, started(1))
        with pytest.raises(VersionConflict) as caught:
            put(store, RUN, 0, started(2))
        assert caught.value.args == (RUN, 0)
        assert [r.event for r in store.read(RUN)] == [started(1)]

    def test_a_version_that_does_not_exist_yet_is_a_conflict(self, store: EventStore) -> None:
        put(store, RUN, 0, started(1))
        with pytest.raises(VersionConflict):
            put(store, RUN, 2, started(2))
        assert store.last_position() == 1

    def test_the_same_append_made_again_after_a_lost_answer_is_a_success(self, store: EventStore) -> None:
        first = store.append(RUN, 0, [started(1), started(2)], at=AT, actor="schedule", cause="command-7")
        put(store, RUN, 2, started(3))
        again = store.append(RUN, 0, [started(1), started(2)], at=AT, actor="schedule", cause="command-7")
        assert again == first
        assert store.last_position() == 3

    @pytest.mark.parametrize(
        ("at", "actor", "cause"),
        [
            (AT + timedelta(microseconds=1), "schedule", "command-7"),
            (AT, "operator:eve", "command-7"),
            (AT, "schedule", "command-8"),
        ],
    )
    def test_the_same_event_of_another_command_is_a_conflict(
        self, store: EventStore, at: datetime, actor: str, cause: str
    ) -> None:
        store.append(RUN, 0, [started(1)], at=AT, actor="schedule", cause="command-7")
        with pytest.raises(VersionConflict):
            store.append(RUN, 0, [started(1)], at=at, actor=actor, cause=cause)

    def test_appends_to_several_streams_happen_together_or_not_at_all(self, store: EventStore) -> None:
        put(store, TENANT, 0, TenantResumed())
        late = [Append(RUN, 0, [started(1)]), Append(TENANT, 0, [TenantSuspended(reason="late")])]
        with pytest.raises(VersionConflict) as caught:
            store.append_all(late, at=AT, actor="schedule", cause="command-2")
        assert caught.value.args == (TENANT, 0)
        assert store.read(RUN) == ()
        now = [Append(RUN, 0, [started(1)]), Append(TENANT, 1, [TenantSuspended(reason="now")])]
        recorded = store.append_all(now, at=AT, actor="schedule", cause="command-3")
        assert [(r.stream, r.version) for r in recorded] == [(RUN, 1), (TENANT, 2)]

    def test_a_conflict_leaves_no_gap_in_the_positions(self, store: EventStore) -> None:
        put(store, RUN, 0, started(1))
        for _ in range(3):
            with pytest.raises(VersionConflict):
                put(store, RUN, 0, started(2))
            with pytest.raises(VersionConflict):
                put(store, RUN, 7, started(2))
        assert put(store, RUN, 1, started(2)) == [2]

    def test_all_streams_are_followed_in_order_of_position(self, store: EventStore) -> None:
        put(store, RUN, 0, started(1))
        put(store, TENANT, 0, TenantResumed())
        put(store, RUN, 1, started(2))
        assert [(r.position, r.stream) for r in store.follow(0)] == [(1, RUN), (2, TENANT), (3, RUN)]
        assert [r.position for r in store.follow(1, limit=1)] == [2]
        assert store.last_position() == 3

    def test_stored_bytes_are_sealed_and_named(self, store: EventStore) -> None:
        put(store, TENANT, 0, TenantSuspended(reason="the quick brown fox"))
        (stored,) = store.stored(0, 10)
        assert (stored.position, stored.stream, stored.version, stored.name) == (1, TENANT, 1, "tenant-suspended/1")
        assert b"quick" not in stored.state
        assert store.open(stored) == store.read(TENANT)[0]

    def test_no_events_append_nothing(self, store: EventStore) -> None:
        assert put(store, RUN, 0) == []
        assert store.last_position() == 0

    @pytest.mark.parametrize("stream", ["run", "run:", "run:a\nb", "run:" + "a" * 201, "RUN:a", "run:a b"])
    def test_a_malformed_stream_is_refused(self, store: EventStore, stream: str) -> None:
        with pytest.raises(Malformed):
            put(store, Stream(stream), 0, started(1))

    def test_what_is_too_large_or_has_no_zone_is_refused(self, store: EventStore) -> None:
        with pytest.raises(Malformed):
            put(store, RUN, 0, RunCancelled(reason="x" * 1024 * 1024))
        with pytest.raises(Malformed):
            put(store, RUN, 0, *[started(1)] * 10_001)
        with pytest.raises(Malformed):
            put(store, RUN, -1, started(1))
        with pytest.raises(Malformed):
            store.append(RUN, 0, [started(1)], at=AT.replace(tzinfo=None), actor="schedule", cause="command-1")
        assert store.last_position() == 0

    def test_threads_appending_to_one_stream_never_share_a_version(self, store: EventStore) -> None:
        won: list[int] = []

        def compete(epoch: int) -> None:
            for expected in range(20):
                try:
                    recorded = store.append(RUN, expected, [started(epoch)], at=AT, actor=f"{epoch}", cause="c")
                except VersionConflict:
                    continue
                won.extend(r.version for r in recorded)

        threads = [threading.Thread(target=compete, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == list(range(1, 21))


class TestMemoryEventStore(EventStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[EventStore]:
        with open_event_store("memory:", KEY) as store:
            yield store


class TestSQLiteEventStore(EventStoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        url = f"sqlite://{tmp_path}/a folder#/events.db"
        create_event_store(url)
        return url

    @pytest.fixture
    def store(self, url: str) -> Iterator[EventStore]:
        with open_event_store(url, KEY) as store:
            yield store

    def test_another_process_reads_what_this_one_appended(self, store: EventStore, url: str) -> None:
        put(store, RUN, 0, started(1))
        create_event_store(url)
        with open_event_store(url, KEY) as other:
            assert put(other, RUN, 1, started(2)) == [2]
        assert [r.event for r in store.read(RUN)] == [started(1), started(2)]

    def test_another_event_key_opens_nothing(self, store: EventStore, url: str) -> None:
        put(store, RUN, 0, started(1))
        with open_event_store(url, os.urandom(32)) as other, pytest.raises(EventUnreadable, match="another event key"):
            other.read(RUN)

    def test_the_position_of_a_deleted_event_is_not_given_again(self, url: str, tmp_path: Path) -> None:
        with open_event_store(url, KEY) as store:
            put(store, RUN, 0, started(1), started(2))
        database = sqlite3.connect(tmp_path / "a folder#" / "events.db", isolation_level=None)
        database.execute("DELETE FROM stored_events WHERE rowid=2")
        database.close()
        with open_event_store(url, KEY) as store:
            assert put(store, TENANT, 0, TenantResumed()) == [3]

    def test_the_file_is_for_its_owner_only(self, store: EventStore, tmp_path: Path) -> None:
        put(store, RUN, 0, started(1))
        assert {p.stat().st_mode & 0o777 for p in (tmp_path / "a folder#").iterdir()} == {0o600}

    @pytest.mark.parametrize("end", ["", "-wal"], ids=["file", "log"])
    def test_another_file_in_the_place_of_one_of_the_two_is_told(
        self, store: EventStore, tmp_path: Path, end: str
    ) -> None:
        put(store, RUN, 0, started(1))
        place = tmp_path / "a folder#" / f"events.db{end}"
        shutil.copy2(place, tmp_path / "copy").rename(place)

        with pytest.raises(StoreReplaced, match="another file has taken its place"):
            put(store, RUN, 1, started(2))

    def test_a_missing_file_is_said_to_be_missing_and_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(Unreadable, match="tenantry init"):
            open_event_store(f"sqlite://{tmp_path}/none.db", KEY)
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_is_no_database_is_unreadable(self, tmp_path: Path) -> None:
        (tmp_path / "events.db").write_bytes(b"not a database" * 1000)
        with pytest.raises(Unreadable, match="not a database"):
            open_event_store(f"sqlite://{tmp_path}/events.db", KEY)

    def test_an_empty_file_is_no_event_store(self, tmp_path: Path) -> None:
        (tmp_path / "events.db").touch()
        with pytest.raises(StoreUnavailable, match="no such table"):
            open_event_store(f"sqlite://{tmp_path}/events.db", KEY)

    @pytest.mark.parametrize(
        "url", ["sqlite:///", "sqlite://host/x.db", "sqlite:x.db", "mysql:///x", "", "sqlite:///.."]
    )
    def test_any_other_url_is_refused(self, url: str) -> None:
        with pytest.raises(Malformed):
            open_event_store(url, KEY)

    def test_a_refused_url_is_shown_without_its_password(self) -> None:
        password = os.urandom(8).hex()
        with pytest.raises(Malformed) as refused:
            open_event_store(f"postgresql://user:{password}@host/events", KEY)
        assert password not in str(refused.value)


WRITER = """
import sys
from datetime import UTC, datetime
from domain.events import RunStarted
from domain.ids import Stream
from eventstore.store import open_event_store
url, name = sys.argv[1:]
store = open_event_store(url, bytes.fromhex(sys.stdin.readline()))
for n in range(100_000):
    event = RunStarted(activation=name, epoch=n)
    (recorded,) = store.append(Stream(f"run:{name}"), n, [event], at=datetime.now(UTC), actor=name, cause=name)
    print(recorded.position, recorded.version, flush=True)
"""


def start_writer(url: str, name: str) -> subprocess.Popen[str]:
    writer = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", WRITER, url, name],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None
    writer.stdin.write(KEY.hex() + "\n")
    writer.stdin.close()
    return writer


def test_nothing_acknowledged_is_lost_when_writing_processes_are_killed(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/events.db"
    create_event_store(url)
    names = ("one", "two", "three")
    writers = {name: start_writer(url, name) for name in names}
    acknowledged: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    for count, (name, writer) in enumerate(writers.items(), 1):
        assert writer.stdout is not None
        for _ in range(30 * count):
            position, version = writer.stdout.readline().split()
            acknowledged[name].append((int(position), int(version)))
        writer.send_signal(signal.SIGKILL)
    for name, writer in writers.items():
        assert writer.stdout is not None
        lines = [line for line in writer.stdout if line.endswith("\n")]
        acknowledged[name] += [(int(a), int(b)) for a, b in (line.split() for line in lines)]
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
    with open_event_store(url, KEY) as store:
        for name in names:
            recorded = store.read(Stream(f"run:{name}"))
            assert [r.version for r in recorded] == list(range(1, len(recorded) + 1))
            assert set(acknowledged[name]) <= {(r.position, r.version) for r in recorded}
            assert len(recorded) - len(acknowledged[name]) <= 1
        last = store.last_position()
        assert [s.position for s in store.stored(0, last + 1)] == list(range(1, last + 1))
        assert put(store, LEDGER, 0, RunCancelled(reason="after the kills")) == [last + 1]


def test_a_follower_reads_every_event_once_and_goes_on_where_it_was() -> None:
    with open_event_store("memory:", KEY) as store:
        follower = Follower(store, limit=10)
        assert follower.poll() == ()
        put(store, RUN, 0, *(started(n) for n in range(1, 26)))
        pages = [follower.poll() for _ in range(4)]
        assert [len(page) for page in pages] == [10, 10, 5, 0]
        assert [r.version for page in pages for r in page] == list(range(1, 26))
        assert Follower(store, after=24).poll() == store.follow(24)
