"""The supervisor's core with scripted places: who gets which run, and what happens when actors die."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from stage import CONTOSO, FABRIKAM, Stage, play

from actors.supervisor import ATTEMPTS, QUIET_SECONDS, SupervisorCore
from domain.errors import CollectorLost, StorageFull, StoreUnavailable, Unknown
from domain.events import CollectionStarted, DatasetOutcome, RunCancelled, RunFinished, RunStarted
from domain.ids import Dataset, RunId, collection_stream, run_stream
from eventstore.mapper import Stored
from eventstore.store import EventStore

USERS = "entra.users"
LOST = CollectorLost("tenant actor", "ActorDiedError")
Answer = str | Exception | Callable[[RunId], Awaitable[str]]


class ScriptedPlace:
    """Answers with what its script says next, and finishes the run when it says nothing (any more)."""

    def __init__(self, stage: Stage, *script: Answer) -> None:
        self.stage = stage
        self.script = list(script)
        self.runs: list[RunId] = []

    async def carry_out(self, run: RunId) -> str:
        self.runs.append(run)
        await asyncio.sleep(0)
        answer = self.script.pop(0) if self.script else "finished"
        if isinstance(answer, Exception):
            raise answer
        if answer == "finished":
            finish(self.stage, run)
        return answer if isinstance(answer, str) else await answer(run)


def finish(stage: Stage, run: RunId) -> None:
    outcome = DatasetOutcome(dataset=Dataset(USERS), outcome="complete")
    stage.append(run_stream(run), RunStarted(activation="a1", epoch=1), RunFinished(outcomes=(outcome,)))


def supervise(stage: Stage, *places: ScriptedPlace, store: EventStore | None = None) -> SupervisorCore:
    return SupervisorCore(store or stage.store, places, stage.clock.now, stage.clock.wait)


def work(core: SupervisorCore) -> None:
    play(core.work(until_idle=True))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_every_requested_run_is_carried_out_once(stage: Stage) -> None:
    runs = [stage.request(USERS, tenant=tenant) for tenant in (CONTOSO, FABRIKAM, CONTOSO)]
    place = ScriptedPlace(stage)

    work(supervise(stage, place))

    assert sorted(place.runs) == sorted(runs)
    assert {stage.run(run).state for run in runs} == {"finished"}


def test_runs_of_one_tenant_follow_each_other_and_those_of_others_do_not_wait(stage: Stage) -> None:
    first, second = stage.request(USERS), stage.request(USERS)
    other = stage.request(USERS, tenant=FABRIKAM)
    done: list[RunId] = []
    others_done = asyncio.Event()

    async def behind_the_other(run: RunId) -> str:
        await others_done.wait()
        return await noted(run)

    async def noted(run: RunId) -> str:
        done.append(run)
        if run == other:
            others_done.set()
        finish(stage, run)
        return "finished"

    places = [ScriptedPlace(stage, noted, noted, noted), ScriptedPlace(stage, behind_the_other, noted)]

    work(supervise(stage, *places))

    assert done == [other, first, second]


def test_a_run_whose_actor_died_is_activated_again(stage: Stage) -> None:
    run = stage.request(USERS)
    place = ScriptedPlace(stage, LOST, StoreUnavailable("event store", "locked"))

    work(supervise(stage, place))

    assert place.runs == [run] * 3
    assert stage.run(run).state == "finished"
    assert stage.clock.waited[:2] == [0.1, 0.2]


def test_a_run_whose_actors_die_for_ever_is_given_up_with_the_reason(stage: Stage) -> None:
    run = stage.request(USERS)

    work(supervise(stage, ScriptedPlace(stage, *[LOST] * ATTEMPTS)))

    assert stage.run(run).state == "cancelled"
    assert "ActorDiedError" in stage.run(run).reason


def test_a_run_that_cannot_be_carried_out_is_given_up_at_once_and_the_others_go_on(stage: Stage) -> None:
    run, other = stage.request(USERS), stage.request(USERS, tenant=FABRIKAM)
    place = ScriptedPlace(stage, Unknown("tenant", CONTOSO, "Register it."))

    work(supervise(stage, place))

    assert "There is no tenant" in stage.run(run).reason
    assert stage.run(other).state == "finished"
    assert place.runs == [run, other]


def test_a_run_that_was_cancelled_before_its_turn_is_not_given_out(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.append(run_stream(run), RunCancelled(reason="by hand"))
    place = ScriptedPlace(stage)

    work(supervise(stage, place))

    assert not place.runs


def test_a_new_supervisor_takes_up_what_a_former_one_left_unfinished(stage: Stage) -> None:
    done, begun = stage.request(USERS), stage.request(USERS, tenant=FABRIKAM)
    finish(stage, done)
    stage.append(run_stream(begun), RunStarted(activation="a1", epoch=1))
    place = ScriptedPlace(stage, "cancelled")

    work(supervise(stage, place))

    assert place.runs == [begun]


def test_two_that_work_at_once_share_the_places(stage: Stage) -> None:
    for tenant in (CONTOSO, FABRIKAM):
        stage.request(USERS, tenant=tenant)
    place = ScriptedPlace(stage)
    core = supervise(stage, place)

    async def both() -> None:
        await asyncio.gather(core.work(until_idle=True), core.work(until_idle=True))

    play(both())
    assert len(place.runs) == 2


def test_a_run_that_another_supervisor_took_is_left_alone_while_it_makes_progress(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.append(run_stream(run), RunStarted(activation="theirs", epoch=1))

    async def progress(seconds: float) -> None:
        await stage.clock.wait(seconds)
        if seconds == 1.0 and stage.clock.seconds < 3 * QUIET_SECONDS:
            other = RunId(f"20261122T203000-{int(stage.clock.seconds * 10):08x}")
            stage.append(collection_stream(CONTOSO, Dataset(USERS)), CollectionStarted(run=other, mode="full"))

    place = ScriptedPlace(stage, "started")
    core = SupervisorCore(stage.store, [place], stage.clock.now, progress)

    work(core)

    assert place.runs == [run, run]
    assert stage.clock.seconds >= 4 * QUIET_SECONDS - 2


def test_a_run_that_another_supervisor_took_and_ended_is_not_waited_for_any_more(stage: Stage) -> None:
    run = stage.request(USERS)

    async def theirs(run: RunId) -> str:
        finish(stage, run)
        return "started"

    work(supervise(stage, ScriptedPlace(stage, theirs, "finished-by-others")))

    assert stage.run(run).state == "finished"
    assert stage.clock.seconds < QUIET_SECONDS


class SilentStore(EventStore):
    """The stage's store, which does not answer for a while."""

    def __init__(self, stage: Stage, times: int) -> None:
        self.__dict__.update(stage.store.__dict__)
        self._times = times

    def stored(self, after: int, limit: int) -> tuple[Stored, ...]:
        if self._times:
            self._times -= 1
            raise StoreUnavailable("event store", "locked")
        return super().stored(after, limit)


def test_a_store_that_does_not_answer_for_a_while_is_waited_for(stage: Stage) -> None:
    run = stage.request(USERS)

    work(supervise(stage, ScriptedPlace(stage), store=SilentStore(stage, ATTEMPTS - 1)))

    assert stage.run(run).state == "finished"


def test_a_store_that_stays_away_ends_the_work_with_the_reason(stage: Stage) -> None:
    with pytest.raises(StoreUnavailable):
        work(supervise(stage, ScriptedPlace(stage), store=SilentStore(stage, ATTEMPTS)))


def test_a_run_that_cannot_even_be_given_up_ends_the_work_with_the_reason(stage: Stage) -> None:
    run = stage.request(USERS)

    class Full(EventStore):
        def __init__(self) -> None:
            self.__dict__.update(stage.store.__dict__)

        def append_all(self, appends, *, at, actor, cause):  # type: ignore[no-untyped-def]
            raise StorageFull("/events.db", "no space left")

    with pytest.raises(StorageFull):
        work(supervise(stage, ScriptedPlace(stage, StorageFull("/events.db", "full")), store=Full()))
    assert stage.run(run).state == "requested"
