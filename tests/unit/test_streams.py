"""Snapshots: a stream is read once, then only what came since; an older state never takes a newer one's place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from domain.errors import VersionConflict
from domain.events import AnyEvent, Recorded, RunStarted
from domain.ids import RunId, Stream, run_stream
from eventstore.store import EventStore, open_event_store
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


@pytest.fixture
def store() -> EventStore:
    return open_event_store("memory:", os.urandom(32))


@pytest.fixture
def asked(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> list[Mapping[Stream, int]]:
    """What was read, past which version."""
    asked: list[Mapping[Stream, int]] = []
    read_all = store.read_all

    def noted(after: Mapping[Stream, int]) -> dict[Stream, list[Recorded]]:
        asked.append(dict(after))
        return read_all(after)

    monkeypatch.setattr(store, "read_all", noted)
    return asked


def test_only_what_came_since_is_read(store: EventStore, asked: list[Mapping[Stream, int]]) -> None:
    snapshots = Snapshots(store)
    put(store, FIRST, 0, 1, 2)

    assert read(snapshots) == (1, 2)
    put(store, FIRST, 2, 3)
    assert read(snapshots) == (1, 2, 3)

    assert asked == [{FIRST: 0}, {FIRST: 2}]


def test_the_stream_used_longest_ago_is_forgotten_and_read_again(
    store: EventStore, asked: list[Mapping[Stream, int]]
) -> None:
    snapshots = Snapshots(store, most=1)
    put(store, FIRST, 0, 1)
    put(store, SECOND, 0, 2)

    assert [read(snapshots), read(snapshots, SECOND), read(snapshots)] == [(1,), (2,), (1,)]

    assert asked == [{FIRST: 0}, {SECOND: 0}, {FIRST: 0}]


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
