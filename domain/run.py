"""A run: the datasets of one tenant collected together. Its epoch fences activations: only the latest one may act."""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec

from domain.errors import ActivationLost, AlreadyExists, NotAllowed
from domain.events import (
    DatasetOutcome,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunFinished,
    RunRequested,
    RunResumed,
    RunStarted,
)
from domain.ids import Dataset, RunId, TenantId

State = Literal["requested", "started", "finished", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("finished", "failed", "cancelled")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`activation` and `epoch`: who carries it out now; epoch 0 while nobody does."""

    id: RunId
    tenant: TenantId
    datasets: tuple[Dataset, ...]
    full: bool
    state: State = "requested"
    activation: str = ""
    epoch: int = 0
    outcomes: tuple[DatasetOutcome, ...] = ()
    reason: str = ""
    detail: str = ""


def evolve(state: Run | None, event: RunEvent) -> Run:
    if isinstance(event, RunRequested):
        return Run(id=event.run, tenant=event.tenant, datasets=event.datasets, full=event.full)
    assert state is not None, "a run's stream begins with its request"  # noqa: S101 - an invariant of the fold
    change = msgspec.structs.replace
    match event:
        case RunStarted() | RunResumed():
            return change(state, state="started", activation=event.activation, epoch=event.epoch)
        case RunFinished():
            return change(state, state="finished", outcomes=event.outcomes)
        case RunFailed():
            return change(state, state="failed", outcomes=event.outcomes, reason=event.reason, detail=event.detail)
        case RunCancelled():
            return change(state, state="cancelled", reason=event.reason)
        case _:
            assert_never(event)


def request(state: Run | None, event: RunRequested) -> list[RunEvent]:
    if state is not None:
        raise AlreadyExists("Run", state.id, "Run ids are given once.")
    return [event]


def activate(state: Run, activation: str) -> list[RunEvent]:
    """The next epoch belongs to `activation`; whoever held the run before has lost it."""
    if state.state in ENDED:
        raise NotAllowed("activate the run", f"{state.id} is {state.state}", "Request a new run.")
    kind = RunStarted if state.state == "requested" else RunResumed
    return [kind(activation=activation, epoch=state.epoch + 1)]


def holds(state: Run, epoch: int) -> None:
    """Raises `ActivationLost` unless `epoch` is the current activation of a started run."""
    if state.state != "started" or state.epoch != epoch:
        raise ActivationLost(state.tenant, epoch)


def finish(state: Run, epoch: int, outcomes: tuple[DatasetOutcome, ...]) -> list[RunEvent]:
    """Says how each dataset of the run ended; raises `NotAllowed` when one is left out, `ActivationLost` when stale."""
    holds(state, epoch)
    if {outcome.dataset for outcome in outcomes} != set(state.datasets) or len(outcomes) != len(set(state.datasets)):
        raise NotAllowed("finish the run", "it needs one outcome for each of its datasets", "Say how each one ended.")
    return [RunFinished(outcomes=outcomes)]


def fail(state: Run, epoch: int, reason: str, detail: str, outcomes: tuple[DatasetOutcome, ...]) -> list[RunEvent]:
    holds(state, epoch)
    return [RunFailed(reason=reason, detail=detail, outcomes=outcomes)]


def cancel(state: Run, reason: str) -> list[RunEvent]:
    return [] if state.state in ENDED else [RunCancelled(reason=reason)]
