"""A run under any sequence of activations, ends and cancellations: epochs fence, and only the holder ends it."""

from __future__ import annotations

import folds
import pytest
from history import History
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from domain import run as runs
from domain.errors import ActivationLost, AlreadyExists, NotAllowed
from domain.events import DatasetOutcome, OutcomeKind, RunEvent, RunRequested, RunResumed, RunStarted
from domain.ids import Dataset, RunId, TenantId
from domain.run import ENDED, Run

RUN = RunId("20261122T203000-0a1b2c3d")
USERS, GROUPS = Dataset("entra.users"), Dataset("entra.groups")
REQUESTED = RunRequested(
    run=RUN, tenant=TenantId("11111111-2222-3333-4444-555555555555"), datasets=(USERS, GROUPS), full=False
)
OUTCOMES: list[OutcomeKind] = ["complete", "truncated", "not-possible", "not-started"]


def outcomes(*datasets: Dataset, kind: OutcomeKind = "complete") -> tuple[DatasetOutcome, ...]:
    return tuple(DatasetOutcome(dataset=dataset, outcome=kind) for dataset in datasets)


class Activations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.history: History[Run | None, RunEvent] = History(runs.evolve, None)
        self.history.take(runs.request(None, REQUESTED))
        self.epochs: list[int] = []
        self.ended_as: Run | None = None

    @property
    def run(self) -> Run:
        assert self.history.state is not None
        return self.history.state

    @property
    def ended(self) -> bool:
        return self.run.state in ENDED

    @rule()
    def request_it_again(self) -> None:
        with pytest.raises(AlreadyExists):
            runs.request(self.run, REQUESTED)

    @precondition(lambda self: not self.ended)
    @rule(name=st.text(max_size=5))
    def activate(self, name: str) -> None:
        (event,) = self.history.take(runs.activate(self.run, name))
        assert isinstance(event, RunResumed if self.epochs else RunStarted)
        self.epochs.append(self.run.epoch)
        runs.holds(self.run, self.run.epoch)

    @precondition(lambda self: self.ended)
    @rule()
    def activate_what_has_ended(self) -> None:
        with pytest.raises(NotAllowed):
            runs.activate(self.run, "late")

    @rule(epoch=st.integers(-1, 9), fails=st.booleans(), kind=st.sampled_from(OUTCOMES))
    def end(self, epoch: int, fails: bool, kind: OutcomeKind) -> None:
        said = outcomes(USERS, GROUPS, kind=kind)
        holder = not self.ended and self.epochs[-1:] == [epoch]
        if holder:
            self.history.take(
                runs.fail(self.run, epoch, "r", "d", said) if fails else runs.finish(self.run, epoch, said)
            )
            assert self.run.state == ("failed" if fails else "finished")
            assert self.run.outcomes == said
            return
        with pytest.raises(ActivationLost):
            runs.finish(self.run, epoch, said)
        with pytest.raises(ActivationLost):
            runs.fail(self.run, epoch, "r", "d", said)

    @precondition(lambda self: self.epochs and not self.ended)
    @rule(left_out=st.sampled_from([(), (USERS,), (USERS, USERS), (USERS, GROUPS, GROUPS), (USERS, "a.b")]))
    def finish_with_a_gap(self, left_out: tuple[Dataset, ...]) -> None:
        with pytest.raises(NotAllowed):
            runs.finish(self.run, self.run.epoch, outcomes(*left_out))

    @rule()
    def cancel(self) -> None:
        already = self.ended
        events = self.history.take(runs.cancel(self.run, "asked"))
        assert len(events) == (not already)
        assert self.ended

    @invariant()
    def epochs_only_grow(self) -> None:
        assert self.epochs == sorted(set(self.epochs))
        assert self.run.epoch == (self.epochs[-1] if self.epochs else 0)

    @invariant()
    def an_end_is_final(self) -> None:
        if self.ended_as is not None:
            assert self.run == self.ended_as
        self.ended_as = self.run if self.ended else None

    @invariant()
    def a_former_activation_holds_nothing(self) -> None:
        for epoch in self.epochs[:-1]:
            with pytest.raises(ActivationLost):
                runs.holds(self.run, epoch)

    def teardown(self) -> None:
        self.history.check()


TestAnySequenceOfActivations = Activations.TestCase
TestAnySequenceOfActivations.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_nobody_holds_a_run_that_is_only_requested() -> None:
    state = folds.run([REQUESTED])
    assert state is not None
    with pytest.raises(ActivationLost):
        runs.holds(state, 0)
