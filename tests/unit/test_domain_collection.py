"""A collection under any sequence of commands, stale and repeated ones among them, against a model that counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import folds
import pytest
from history import History
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import collection as collections
from domain.collection import Collection
from domain.errors import NotAllowed, ProtocolViolation
from domain.events import (
    BatchRecorded,
    CollectionCompleted,
    CollectionEvent,
    CollectionStarted,
    CollectionTruncated,
    Mode,
)
from domain.ids import RunId

RUNS = [RunId(f"20261122T203000-0000000{n}") for n in range(4)]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
MODES: list[Mode] = ["full", "delta"]
runs = st.sampled_from(RUNS)


def started(run: RunId, mode: Mode = "full", since: str | None = None) -> CollectionStarted:
    return CollectionStarted(run=run, mode=mode, since=since)


def batch(run: RunId, after: str | None, cursor: str, rows: int = 1, requests: int = 1) -> BatchRecorded:
    return BatchRecorded(
        run=run,
        key=f"key of {cursor}",
        data_key="d",
        rows=rows,
        row_bytes=rows,
        stored_bytes=rows,
        digest=f"digest of {cursor}",
        requests=requests,
        after=after,
        cursor=cursor,
    )


class Passes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.history: History[Collection, CollectionEvent] = History(collections.evolve, Collection())
        self.counted: list[BatchRecorded] = []
        self.sent: list[BatchRecorded] = []
        self.requests = 0
        self.left: tuple[str | None, datetime | None] = (None, None)
        self.names = 0

    @property
    def state(self) -> Collection:
        return self.history.state

    @property
    def under_way(self) -> bool:
        return self.state.state == "running"

    @property
    def run(self) -> RunId:
        assert self.state.run is not None
        return self.state.run

    @initialize(run=runs)
    def begin(self, run: RunId) -> None:
        self.start(run, "full")

    @rule(run=runs, mode=st.sampled_from(MODES))
    def start(self, run: RunId, mode: Mode) -> None:
        before = self.state
        events = self.history.take(
            collections.start(before, started(run, mode, before.delta_link if mode == "delta" else None))
        )
        if not events:
            assert before.run == run
            return
        left_open = [event for event in events if isinstance(event, CollectionTruncated)]
        assert len(left_open) == (before.state == "running")
        assert all((event.run, event.rows) == (before.run, before.rows) for event in left_open)
        self.counted, self.requests = [], 0

    @precondition(lambda self: self.under_way)
    @rule(rows=st.integers(0, 10**6), requests=st.integers(1, 500))
    def go_on(self, rows: int, requests: int) -> None:
        self.names += 1
        one = batch(self.run, self.state.cursor, f"cursor {self.names}", rows, requests)
        assert self.history.take(collections.record_batch(self.state, one)) == [one]
        self.counted.append(one)
        self.sent.append(one)
        self.requests += requests

    @precondition(lambda self: self.under_way and self.counted)
    @rule()
    def report_the_last_batch_again(self) -> None:
        assert self.history.take(collections.record_batch(self.state, self.counted[-1])) == []

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def report_a_former_batch(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.sent))
        first_of_a_pass = self.under_way and one.run == self.run and one.after is None and not self.counted
        last = self.under_way and self.counted[-1:] == [one]
        if first_of_a_pass or last:
            return
        with pytest.raises(NotAllowed):
            collections.record_batch(self.state, one)

    @precondition(lambda self: self.under_way and self.state.cursor)
    @rule()
    def stand_still(self) -> None:
        assert self.state.cursor is not None
        with pytest.raises(ProtocolViolation):
            collections.record_batch(self.state, batch(self.run, self.state.cursor, self.state.cursor))

    @precondition(lambda self: self.under_way)
    @rule(mode=st.sampled_from(MODES), requests=st.integers(0, 9))
    def restart(self, mode: Mode, requests: int) -> None:
        before = self.state
        self.history.take(collections.restart(before, self.run, "page-expired", mode, requests=requests))
        self.counted = []
        self.requests += requests
        assert self.state.cursor is None
        assert self.state.restarts == before.restarts + 1
        assert mode == "delta" or self.state.since is None

    @precondition(lambda self: self.under_way)
    @rule(requests=st.integers(0, 9), link=st.none() | st.text(max_size=5), days=st.none() | st.integers(0, 9))
    def complete(self, requests: int, link: str | None, days: int | None) -> None:
        watermark = None if days is None else NOON + timedelta(days=days)
        (event,) = self.history.take(
            collections.complete(
                self.state, self.run, requests=requests, seconds=1.0, delta_link=link, watermark=watermark
            )
        )
        assert isinstance(event, CollectionCompleted)
        assert event.rows == sum(one.rows for one in self.counted)
        assert event.requests == self.requests + requests
        self.left = (link, watermark)

    @precondition(lambda self: self.under_way)
    @rule(possible=st.booleans(), requests=st.integers(0, 9))
    def give_up(self, possible: bool, requests: int) -> None:
        end = collections.truncate if possible else collections.not_possible
        self.history.take(end(self.state, self.run, reason="r", detail="d", requests=requests, seconds=1.0))
        assert self.state.state == ("truncated" if possible or self.counted else "not-possible")
        assert (self.state.reason, self.state.detail) == ("r", "d")

    @rule(run=runs)
    def end_what_is_not_under_way(self, run: RunId) -> None:
        if self.under_way and run == self.run:
            return
        with pytest.raises(NotAllowed):
            collections.complete(self.state, run, requests=0, seconds=0.0, delta_link="moved", watermark=NOON)
        with pytest.raises(NotAllowed):
            collections.truncate(self.state, run, reason="r", detail="d", requests=0, seconds=0.0)
        with pytest.raises(NotAllowed):
            collections.not_possible(self.state, run, reason="r", detail="d", requests=0, seconds=0.0)
        with pytest.raises(NotAllowed):
            collections.restart(self.state, run, "r", "full", requests=0)
        with pytest.raises(NotAllowed):
            collections.record_batch(self.state, batch(run, self.state.cursor, "elsewhere"))

    @invariant()
    def rows_are_those_of_the_batches_since_the_last_restart(self) -> None:
        assert self.state.rows == sum(one.rows for one in self.counted)
        assert self.state.batches == len(self.counted)
        assert len({one.key for one in self.counted}) == len(self.counted)

    @invariant()
    def only_a_complete_pass_moves_the_delta_link_and_the_watermark(self) -> None:
        assert (self.state.delta_link, self.state.watermark) == self.left

    @invariant()
    def the_cursor_is_that_of_the_last_counted_batch(self) -> None:
        assert self.state.cursor == (self.counted[-1].cursor if self.counted else None)

    def teardown(self) -> None:
        self.history.check()


TestAnySequenceOfCommands = Passes.TestCase
TestAnySequenceOfCommands.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_batch_reported_twice_counts_once() -> None:
    history: History[Collection, CollectionEvent] = History(collections.evolve, Collection())
    history.take(collections.start(history.state, started(RUNS[0])))
    one = batch(RUNS[0], None, "a", rows=7)
    history.take(collections.record_batch(history.state, one))
    history.take(collections.record_batch(history.state, one))
    assert history.state.rows == 7


def test_a_truncated_pass_is_not_taken_up_again_by_its_run() -> None:
    running = folds.collection([started(RUNS[0])])
    ended = collections.truncate(running, RUNS[0], reason="r", detail="d", requests=1, seconds=1.0)
    state = folds.collection([started(RUNS[0]), *ended])
    assert collections.start(state, started(RUNS[0])) == []
    assert state.state == "truncated"


def test_what_became_impossible_after_a_batch_left_a_part_of_the_whole() -> None:
    state = folds.collection([started(RUNS[0]), batch(RUNS[0], None, "a", rows=7)])

    (ended,) = collections.not_possible(state, RUNS[0], reason="unlicensed", detail="d", requests=2, seconds=1.0)

    assert ended == CollectionTruncated(
        run=RUNS[0], reason="unlicensed", detail="d", cursor="a", rows=7, requests=3, seconds=1.0
    )


def test_a_pass_that_falls_back_to_full_forgets_the_delta_link_it_began_with() -> None:
    state = folds.collection([started(RUNS[0], "delta", "link")])
    (restarted,) = collections.restart(state, RUNS[0], "resync", "full", requests=1)
    assert collections.evolve(state, restarted).since is None
