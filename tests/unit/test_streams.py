"""Snapshots: a stream is read once, then only what came since; an older state never takes a newer one's place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from eventsourcing.persistence import Notification

from domain.errors import VersionConflict
from domain.events import AnyEvent, RunStarted
from domain.ids import RunId, Stream, run_stream
from eventstore.mapper import SealedMapper
from eventstore.recorder import MemoryEventRecorder
from eventstore.store import EventStore
from eventstore.streams import Held, Snapshots

AT = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
FIRST, SECOND = (run_stream(RunId(f"20261122T203000-0000000{n}")) for n in (1, 2))


def epochs(state: tuple[int, ...], event: RunStarted) -> tuple[int, ...]:
    return (*state, event.epoch)


def put(store: EventStore, stream: Stream, expected: int, *numbers: int) -> None:
    events: list[AnyEvent] = [RunStarted(activation="a", epoch=number) for number in numbers]
    store.append(stream, expected, events, at=AT, actor="operator:test", cause="command-1")


def read(snapshots: Snapshots, stream: Stream = FIRST) -> tuple[int, ...]:
    held: Held[tuple[int, ...], RunStarted] = snapshots.held(stream, epochs, ())
    snapshots.refresh(held)
    return held.state


class NotingRecorder(MemoryEventRecorder):
    """Keeps what was read: streams, and past which version."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Mapping[Stream, int]] = []

    def select_streams(self, after: Mapping[Stream, int], limit: int) -> list[Notification]:
        self.asked.append(dict(after))
        return super().select_streams(after, limit)


@pytest.fixture
def recorder() -> NotingRecorder:
    return NotingRecorder()


@pytest.fixture
def store(recorder: NotingRecorder) -> EventStore:
    return EventStore(recorder, SealedMapper(os.urandom(32)), "memory", lambda: None, lambda: None)


def test_only_what_came_since_is_read(store: EventStore, recorder: NotingRecorder) -> None:
    snapshots = Snapshots(store)
    put(store, FIRST, 0, 1, 2)

    assert read(snapshots) == (1, 2)
    put(store, FIRST, 2, 3)
    assert read(snapshots) == (1, 2, 3)

    assert recorder.asked == [{FIRST: 0}, {FIRST: 2}]


def test_the_stream_used_longest_ago_is_forgotten_and_read_again(store: EventStore, recorder: NotingRecorder) -> None:
    snapshots = Snapshots(store, most=1)
    put(store, FIRST, 0, 1)
    put(store, SECOND, 0, 2)

    assert [read(snapshots), read(snapshots, SECOND), read(snapshots)] == [(1,), (2,), (1,)]

    assert recorder.asked == [{FIRST: 0}, {SECOND: 0}, {FIRST: 0}]


def test_a_state_that_others_have_overtaken_is_not_kept(store: EventStore) -> None:
    snapshots = Snapshots(store)
    put(store, FIRST, 0, 1)
    slow: Held[tuple[int, ...], RunStarted] = snapshots.held(FIRST, epochs, ())
    snapshots.refresh(slow)
    put(store, FIRST, 1, 2)
    read(snapshots)

    snapshots.keep(slow)

    assert snapshots.held(FIRST, epochs, ()).state == (1, 2)


def test_a_decision_on_a_snapshot_that_is_not_current_is_a_conflict(store: EventStore) -> None:
    snapshots = Snapshots(store)
    put(store, FIRST, 0, 1)
    read(snapshots)
    put(store, FIRST, 1, 2)
    stale: Held[tuple[int, ...], RunStarted] = snapshots.held(FIRST, epochs, ())

    with pytest.raises(VersionConflict):
        stale.append(
            lambda state: [RunStarted(activation="a", epoch=max(state) + 1)], at=AT, actor="operator:test", cause="c"
        )

    assert stale.state == (1, 2)
