"""The ledger follows the store; verification finds every way to touch the stored events, and names the event."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto.checkpoint import LedgerKey, sign_checkpoint, verify_checkpoint
from crypto.merkle import Tree, leaf_hash
from domain.errors import CheckpointRejected, EventUnreadable, Unreadable
from domain.events import BatchRecorded, RunStarted, TenantSuspended
from domain.ids import LEDGER, RunId, Stream
from eventstore.store import EventStore, create_event_store, open_event_store
from projections.ledger import Ledger, leaf_data
from projections.verify import Problem, Verification, root, verify

AT = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
EVENT_KEY = os.urandom(32)
KEY = LedgerKey.generate()
RUN = RunId("20261122T203000-0a1b2c3d")
TARGET = (17, f"collection:tenant-{17 % 3}:entra.users", 17 // 3 + 1)
"""Position, stream and version of the event that is touched."""


def batch(n: int) -> BatchRecorded:
    return BatchRecorded(
        run=RUN,
        key=f"batch-{n}",
        data_key="key",
        rows=n,
        row_bytes=n,
        stored_bytes=n,
        digest="0" * 64,
        requests=1,
        after=None,
        cursor=f"cursor-{n}",
    )


def append(store: EventStore, stream: str, event: BatchRecorded | RunStarted | TenantSuspended) -> int:
    version = len(store.read(Stream(stream)))
    return store.append(Stream(stream), version, [event], at=AT, actor="schedule", cause=RUN)[0].position


def sign(ledger: Ledger) -> str:
    ledger.sign(at=AT, actor="schedule", cause="ledger")
    return ledger.notes()[-1]


class Place:
    """A state directory in which 30 events were stored, of which 25 and the first checkpoint are in a checkpoint."""

    def __init__(self, directory: Path) -> None:
        self.events = directory / "events.db"
        self.record = directory / "ledger.db"
        self.witness = ""

    def open(self) -> EventStore:
        return open_event_store(f"sqlite://{self.events}", EVENT_KEY)

    def verify(self, *, key: bytes | None = EVENT_KEY, witnesses: tuple[str, ...] = ()) -> Verification:
        return verify(self.events, self.record, KEY.public, event_key=key, witnesses=witnesses)

    def copy(self, directory: Path) -> Place:
        there = Place(directory)
        shutil.copy(self.events, there.events)
        shutil.copy(self.record, there.record)
        there.witness = self.witness
        return there

    def move(self, position: int, to: int) -> None:
        database = sqlite3.connect(self.events, isolation_level=None)
        database.execute("UPDATE stored_events SET rowid=? WHERE rowid=?", (to, position))
        database.close()

    def sql(self, *statements: str, path: Path | None = None) -> None:
        database = sqlite3.connect(path or self.events, isolation_level=None)
        for statement in statements:
            database.execute(statement)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("original"))
    create_event_store(f"sqlite://{place.events}")
    with place.open() as store:
        ledger = Ledger(store, place.record, KEY, "tenantry.test/ledger")
        for n in range(1, 26):
            if n == 12:
                sign(ledger)
            else:
                append(store, f"collection:tenant-{n % 3}:entra.users", batch(n))
        place.witness = sign(ledger)
        for n in range(27, 30):
            append(store, f"collection:tenant-{n % 3}:entra.users", batch(n))
        ledger.advance()
        append(store, "run:" + RUN, RunStarted(activation="a", epoch=1))
        ledger.close()
    return place


@pytest.fixture
def place(original: Place, tmp_path: Path) -> Place:
    return original.copy(tmp_path)


def named(verification: Verification, kind: str) -> list[tuple[int, str, int]]:
    assert not verification.ok
    return [(p.position, p.stream, p.version) for p in verification.problems if p.kind == kind]


def test_an_untouched_store_verifies(place: Place) -> None:
    assert place.verify() == Verification(True, 30, 2, (), 4)
    assert place.verify(key=None) == Verification(True, 30, 2, (), 4)
    assert place.verify(witnesses=(place.witness,)) == Verification(True, 30, 2, (), 4)


def test_an_event_stands_where_the_tests_below_expect_it(place: Place) -> None:
    with place.open() as store:
        (stored,) = store.stored(16, 1)
    assert (stored.position, stored.stream, stored.version) == TARGET


def test_an_empty_store_without_a_ledger_verifies(tmp_path: Path) -> None:
    create_event_store(f"sqlite://{tmp_path}/events.db")
    assert verify(tmp_path / "events.db", tmp_path / "ledger.db", KEY.public) == Verification(True, 0, 0, (), 0)


CHANGES = {
    "state": "UPDATE stored_events SET state=CAST(substr(state,1,40)||x'00'||substr(state,42) AS BLOB) WHERE rowid=17",
    "state of another type": "UPDATE stored_events SET state=CAST(state AS TEXT) WHERE rowid=17",
    "name": "UPDATE stored_events SET topic='run-cancelled/1' WHERE rowid=17",
    "stream": "UPDATE stored_events SET originator_id='collection:tenant-9:entra.users' WHERE rowid=17",
    "version": "UPDATE stored_events SET originator_version=99 WHERE rowid=17",
    "version of another type": "UPDATE stored_events SET originator_version='x' WHERE rowid=17",
    "state of another event": "UPDATE stored_events SET state=(SELECT state FROM stored_events WHERE rowid=3)"
    " WHERE rowid=17",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("key", [EVENT_KEY, None], ids=["with the event key", "without it"])
def test_a_changed_event_is_named(place: Place, change: str, key: bytes | None) -> None:
    place.sql(CHANGES[change])
    assert named(place.verify(key=key), "changed") == [TARGET]


def test_a_removed_event_is_named(place: Place) -> None:
    place.sql("DELETE FROM stored_events WHERE rowid=17")
    assert named(place.verify(), "removed") == [TARGET]


def test_an_event_moved_to_another_position_is_named(place: Place) -> None:
    place.sql("UPDATE stored_events SET rowid=900 WHERE rowid=17")
    assert named(place.verify(), "moved") == [(900, *TARGET[1:])]


def test_events_that_changed_places_are_named(place: Place) -> None:
    place.move(17, 99)
    place.move(18, 17)
    place.move(99, 18)
    assert named(place.verify(), "moved") == [
        (17, "collection:tenant-0:entra.users", 5),
        (18, TARGET[1], TARGET[2]),
    ]


def test_states_that_changed_places_are_named(place: Place) -> None:
    place.sql(
        "CREATE TEMP TABLE kept AS SELECT rowid AS at, state FROM stored_events WHERE rowid IN (17, 18)",
        "UPDATE stored_events SET state=(SELECT state FROM kept WHERE at=35-stored_events.rowid)"
        " WHERE rowid IN (17, 18)",
    )
    assert [position for position, _, _ in named(place.verify(), "changed")] == [17, 18]


def test_an_event_that_later_ones_were_shifted_over_is_named(place: Place) -> None:
    place.sql("DELETE FROM stored_events WHERE rowid=17")
    for position in range(18, 31):
        place.move(position, position - 1)
    verification = place.verify()
    assert named(verification, "removed")[0] == TARGET
    assert len(named(verification, "moved")) == 12


@pytest.mark.parametrize("position", [18, 31])
def test_an_inserted_event_is_named(place: Place, position: int) -> None:
    for later in range(30, position - 1, -1):
        place.move(later, later + 1)
    place.sql("INSERT INTO stored_events VALUES (99, 'run:other', 1, 'run-started/1', x'010203')")
    place.move(99, position)
    assert (position, "run:other", 1) in named(place.verify(), "inserted")


def test_an_event_that_was_copied_to_the_end_is_named(place: Place) -> None:
    place.sql(
        "INSERT INTO stored_events SELECT 31, 'collection:tenant-5:entra.users', originator_version, topic, state"
        " FROM stored_events WHERE rowid=17"
    )
    assert named(place.verify(), "changed") == [(31, "collection:tenant-5:entra.users", TARGET[2])]


def test_a_cut_tail_is_named_event_by_event(place: Place) -> None:
    place.sql("DELETE FROM stored_events WHERE rowid>20")
    removed = named(place.verify(), "removed")
    assert [position for position, _, _ in removed if position <= 29] == list(range(21, 30))
    assert removed[0] == (21, "collection:tenant-0:entra.users", 6)


def test_a_tail_cut_out_of_both_files_is_seen_by_the_position_that_was_given_before(place: Place) -> None:
    place.sql("DELETE FROM stored_events WHERE rowid>20")
    place.sql("DELETE FROM leaves WHERE position>20", "DELETE FROM checkpoints WHERE tree_size>20", path=place.record)
    assert named(place.verify(), "removed") == [(21, "", 0)]


def test_a_tail_cut_everywhere_is_seen_by_a_witness_only(place: Place) -> None:
    place.sql("DELETE FROM stored_events WHERE rowid>20", "UPDATE sqlite_sequence SET seq=20")
    place.sql("DELETE FROM leaves WHERE position>20", "DELETE FROM checkpoints WHERE tree_size>20", path=place.record)
    assert place.verify() == Verification(True, 20, 1, (), 8)
    assert place.verify(witnesses=(place.witness,)).problems == (Problem(0, "checkpoint", LEDGER, 0),)


def test_an_end_that_was_cut_off_and_written_anew_with_the_event_key_is_seen_by_a_witness_only(place: Place) -> None:
    place.sql("DELETE FROM stored_events WHERE rowid>20", "UPDATE sqlite_sequence SET seq=20")
    place.record.unlink()
    with place.open() as store:
        for n in range(21, 31):
            append(store, f"collection:tenant-{n % 3}:entra.users", batch(100 + n))
        ledger = Ledger(store, place.record, KEY, "tenantry.test/ledger")
        sign(ledger)
        ledger.close()
    assert place.verify() == Verification(True, 31, 2, (), 0)
    assert place.verify(witnesses=(place.witness,)).problems == (Problem(0, "checkpoint", LEDGER, 0),)


def test_an_event_rewritten_with_both_records_and_the_event_key_breaks_the_checkpoint(place: Place) -> None:
    with place.open() as store:
        (stored,) = store.stored(16, 1)
        forged = store._mapper.seal(Stream(stored.stream), stored.version, batch(7), at=AT, actor="x", cause="x")
    database = sqlite3.connect(place.events, isolation_level=None)
    database.execute("UPDATE stored_events SET state=? WHERE rowid=17", (forged,))
    database.close()
    with place.open() as store:
        leaf = leaf_hash(leaf_data(store.stored(16, 1)[0]))
    database = sqlite3.connect(place.record, isolation_level=None)
    database.execute("UPDATE leaves SET leaf=? WHERE position=17", (leaf,))
    database.close()
    verification = place.verify()
    assert [(p.kind, p.position) for p in verification.problems] == [("checkpoint", 26)]
    assert verification.checkpoints == 1


def test_a_change_of_the_ledgers_own_record_is_told_from_a_change_of_the_event(place: Place) -> None:
    place.sql("UPDATE leaves SET leaf=zeroblob(32) WHERE position=17", path=place.record)
    assert place.verify().problems == (Problem(17, "database", TARGET[1], TARGET[2]),)
    place.sql("UPDATE leaves SET version='x' WHERE position=5", path=place.record)
    assert Problem(0, "database", LEDGER, 0) in place.verify().problems


def test_a_missing_record_of_the_ledger_is_said_and_the_events_prove_themselves_without_it(place: Place) -> None:
    place.record.unlink()
    missing = Problem(0, "missing", LEDGER, 0)
    assert place.verify() == Verification(False, 30, 2, (missing,), 4)
    assert place.verify(key=None, witnesses=(place.witness,)) == Verification(False, 30, 1, (missing,), 4)
    place.sql(CHANGES["state"])
    assert place.verify().problems == (missing, Problem(17, "changed", TARGET[1], TARGET[2]))
    rejected = Problem(0, "checkpoint", LEDGER, 0)
    assert place.verify(key=None, witnesses=(place.witness,)).problems == (rejected, missing)


EMPTYINGS = {
    "leaves": ["DELETE FROM leaves"],
    "checkpoints": ["DELETE FROM checkpoints"],
    "everything": ["DELETE FROM leaves", "DELETE FROM checkpoints", "DELETE FROM tracking"],
}


@pytest.mark.parametrize("what", EMPTYINGS)
@pytest.mark.parametrize("key", [EVENT_KEY, None], ids=["with the event key", "without it"])
def test_an_emptied_record_of_the_ledger_is_said_like_a_missing_one(place: Place, what: str, key: bytes | None) -> None:
    place.sql(*EMPTYINGS[what], path=place.record)
    verification = place.verify(key=key)
    assert (verification.ok, verification.problems) == (False, (Problem(0, "missing", LEDGER, 0),))


def test_a_leaf_missing_from_the_ledgers_record_is_said(place: Place) -> None:
    place.sql("DELETE FROM leaves WHERE position=17", path=place.record)
    assert place.verify().problems == (Problem(17, "database", TARGET[1], TARGET[2]),)


def test_a_checkpoint_signed_by_another_key_is_refused(place: Place) -> None:
    forged = sign_checkpoint("tenantry.test/ledger", 5, bytes(32), LedgerKey.generate())
    assert place.verify(witnesses=(forged,)).problems == (Problem(0, "checkpoint", LEDGER, 0),)
    wrong = sign_checkpoint("tenantry.test/ledger", 5, bytes(32), KEY)
    assert place.verify(witnesses=(wrong,)).problems == (Problem(0, "checkpoint", LEDGER, 0),)


def test_every_byte_of_an_events_row_in_the_file_matters(place: Place) -> None:
    whole = place.events.read_bytes()
    state = sqlite3.connect(place.events).execute("SELECT state FROM stored_events WHERE rowid=17").fetchone()[0]
    end = whole.index(state) + len(state)
    start = whole.index(TARGET[1].encode(), end - len(state) - 80) - 10
    assert whole.count(state) == 1
    flips = [(offset, bit) for offset in range(start, start + 60) for bit in range(8)]
    flips.remove((start + 4, 3))  # 0 to 8 in the place of the key column, which SQLite does not read: it takes the key
    for offset, bit in [*flips, *((offset, offset % 8) for offset in range(start + 60, end))]:
        changed = bytearray(whole)
        changed[offset] ^= 1 << bit
        place.events.write_bytes(changed)
        verification = place.verify()
        assert not verification.ok, (offset - start, whole[offset], changed[offset])
        named_events = {(p.position, p.stream, p.version) for p in verification.problems}
        assert any(event[1:] == TARGET[1:] or event[0] == 17 for event in named_events), (offset - start, named_events)


def test_a_file_that_is_no_database_any_more_is_said_to_be_one(place: Place) -> None:
    place.events.write_bytes(bytes(5000))
    assert place.verify().problems == (Problem(0, "database", "", 0),)


def test_a_page_full_of_noise_is_named_and_the_rest_is_still_compared(place: Place) -> None:
    whole = bytearray(place.events.read_bytes())
    page = whole.index(b"batch-recorded/1") // 4096 * 4096
    whole[page : page + 4096] = os.urandom(4096)
    place.events.write_bytes(whole)
    verification = place.verify()
    assert Problem(0, "database", "", 0) in verification.problems
    assert any(p.position > 0 and p.stream for p in verification.problems)


def test_the_ledger_signs_only_when_something_else_than_a_checkpoint_was_stored(tmp_path: Path) -> None:
    create_event_store(f"sqlite://{tmp_path}/events.db")
    with open_event_store(f"sqlite://{tmp_path}/events.db", EVENT_KEY) as store:
        ledger = Ledger(store, tmp_path / "ledger.db", KEY, "tenantry.test/ledger")
        assert ledger.sign(at=AT, actor="schedule", cause="ledger") is None
        append(store, "tenant:a", TenantSuspended(reason="x"))
        first = ledger.sign(at=AT, actor="schedule", cause="ledger")
        assert first is not None
        assert (first.size, first.root) == (1, leaf_hash(leaf_data(store.stored(0, 1)[0])))
        assert ledger.sign(at=AT, actor="schedule", cause="ledger") is None
        append(store, "tenant:a", TenantSuspended(reason="y"))
        second = ledger.sign(at=AT, actor="schedule", cause="ledger")
        assert second is not None
        assert second.size == 3
        assert [verify_checkpoint(note, KEY.public) for note in ledger.notes()] == [first, second]
        assert [r.event.tree_size for r in store.read(LEDGER)] == [1, 3]
        ledger.close()


def test_a_ledger_opened_again_goes_on(place: Place) -> None:
    with place.open() as store:
        before = Ledger(store, place.record, KEY, "tenantry.test/ledger")
        size = before.advance()
        again = Ledger(store, place.record, KEY, "tenantry.test/ledger")
        assert (again.size, again.root()) == (size, before.root())
        append(store, "tenant:a", TenantSuspended(reason="x"))
        assert again.advance() == before.advance() == size + 1
        assert again.root() == before.root()
        before.close()
        again.close()


def test_two_ledgers_at_once_record_every_event_once(place: Place) -> None:
    with place.open() as store:
        ledgers = [Ledger(store, place.record, KEY, "tenantry.test/ledger") for _ in range(3)]

        def follow(ledger: Ledger, name: str) -> None:
            for _ in range(20):
                append(store, f"tenant:{name}", TenantSuspended(reason="x"))
                ledger.sign(at=AT + timedelta(seconds=int(name)), actor=f"ledger-{name}", cause="ledger")

        threads = [threading.Thread(target=follow, args=(ledger, str(n))) for n, ledger in enumerate(ledgers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({ledger.advance() for ledger in ledgers}) == 1
        assert len({ledger.root() for ledger in ledgers}) == 1
        for ledger in ledgers:
            ledger.close()
    assert place.verify().ok


def test_nothing_is_signed_over_a_changed_event(place: Place) -> None:
    with place.open() as store:
        ledger = Ledger(store, place.record, KEY, "tenantry.test/ledger")
        ledger.advance()
        place.sql("UPDATE stored_events SET state=x'00' WHERE rowid=30")
        with pytest.raises(EventUnreadable, match="not what the ledger recorded"):
            ledger.sign(at=AT, actor="schedule", cause="ledger")
        ledger.close()


def test_nothing_is_signed_over_an_event_that_does_not_open(place: Place) -> None:
    place.sql("UPDATE stored_events SET state=x'00' WHERE rowid=30")
    with place.open() as store:
        ledger = Ledger(store, place.record, KEY, "tenantry.test/ledger")
        with pytest.raises(EventUnreadable, match="run:"):
            ledger.sign(at=AT, actor="schedule", cause="ledger")
        ledger.close()
    assert named(place.verify(), "inserted") == [(30, "run:" + RUN, 1)]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM leaves WHERE number>27",
        "DELETE FROM leaves WHERE number=27",
        "DELETE FROM leaves",
        "DELETE FROM tracking",
    ],
)
def test_a_ledger_that_lost_leaves_signs_nothing_and_is_made_again_from_the_events(
    place: Place, statement: str
) -> None:
    place.sql(statement, path=place.record)
    with place.open() as store:
        with pytest.raises(Unreadable, match="gone"):
            Ledger(store, place.record, KEY, "tenantry.test/ledger").advance()
        for file in place.record.parent.glob("ledger.db*"):
            file.unlink()
        ledger = Ledger(store, place.record, KEY, "tenantry.test/ledger")
        assert ledger.advance() == 30
        assert place.witness in ledger.notes()
        ledger.close()
    assert place.verify(witnesses=(place.witness,)).ok


def test_a_ledger_whose_record_was_changed_does_not_open(place: Place) -> None:
    place.sql("UPDATE leaves SET leaf=zeroblob(32) WHERE position=17", path=place.record)
    with place.open() as store, pytest.raises(CheckpointRejected, match="at size 25"):
        Ledger(store, place.record, KEY, "tenantry.test/ledger")


@pytest.fixture(scope="module")
def leaves() -> list[bytes]:
    return [leaf_hash(b"%d" % n) for n in range(5000)]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 1023, 1024, 1025, 2048, 3333, 5000])
def test_the_verifiers_root_is_the_generators(leaves: list[bytes], size: int) -> None:
    kept: dict[tuple[int, int], bytes] = {}
    tree = Tree()
    for leaf in leaves[:size]:
        tree.append_hash(leaf)
    for _ in range(2):
        assert root(b"".join(leaves), 0, size, kept) == tree.root()
