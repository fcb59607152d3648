"""A collector's core: whose sessions, tokens and runspaces it keeps, for how long, and whom it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from stage import BEGIN, CONTOSO, FABRIKAM, SERVER, Clock, account, play

from actors.collector import IDLE_SECONDS, MOST_BINDINGS, CollectorCore
from actors.messages import Work, data_key_context, token_context
from collectors.catalog import load_catalog
from collectors.reader import Request, Response
from collectors.work import Assignment, Complete, Step
from crypto import transit
from crypto.credential import encode
from crypto.datakey import new_data_key
from crypto.secret import Secret
from crypto.transit import TransitKey
from domain.errors import ActivationLost, NotAllowed, SealBroken, SignInFailed, TransitKeyChanged
from domain.events import ExchangeServer
from domain.ids import Dataset, RunId, TenantId, new_run_id
from domain.settings import CLOUDS
from eventstore.batches import open_batch_store

RUN = new_run_id(BEGIN, 1)
ANSWER = Response(status=200, headers={}, body=b'{"rows":[{"Guid":"1"}],"warnings":[],"errors":[],"failed":false}')


class ScriptedShell:
    """Stands for `RemotePowerShell`: one tenant's runspace pool."""

    def __init__(self, answer: Callable[[], Awaitable[Response]], password: Secret) -> None:
        self.answer = answer
        self.password = password
        self.asked = 0
        self.closed = False

    async def perform(self, request: Request) -> Response:
        self.asked += 1
        return await self.answer()

    async def aclose(self) -> None:
        self.closed = True


class Desk:
    """A collector core with scripted shells, and work for it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.shells: list[ScriptedShell] = []
        self.data_key = new_data_key()
        self.core = CollectorCore(
            "desk", open_batch_store("memory://"), load_catalog(), shell=self.open, clock=self.clock.steady
        )

    def open(self, server: ExchangeServer, username: str, password: Secret, ca_bundle: str) -> Any:
        self.shells.append(ScriptedShell(self.answer, password))
        return self.shells[-1]

    async def answer(self) -> Response:
        return ANSWER

    def work(
        self,
        dataset: str = "onprem.mailboxes",
        *,
        tenant: TenantId = CONTOSO,
        run: RunId = RUN,
        epoch: int = 1,
        cursor: str | None = None,
    ) -> Work:
        assignment = Assignment(
            tenant=tenant,
            run=run,
            dataset=Dataset(dataset),
            mode="full",
            cloud=CLOUDS["public"],
            exchange_server=SERVER,
            cursor=cursor,
        )
        public = self.core.transit_key
        return Work(
            assignment=assignment,
            epoch=epoch,
            sealed_to=public,
            token=transit.seal(public, encode(account()), token_context(assignment)),
            data_key=transit.seal(public, self.data_key.to_secret(), data_key_context(assignment)),
        )


@pytest.fixture
def desk() -> Desk:
    return Desk()


def is_closed(secret: Secret) -> bool:
    try:
        secret.reveal()
    except NotAllowed:
        return True
    return False


def test_datasets_of_one_activation_share_a_runspace_pool(desk: Desk) -> None:
    async def both() -> list[Step]:
        return [
            await desk.core.next_batch(desk.work(name)) for name in ("onprem.mailboxes", "onprem.receive-connectors")
        ]

    assert all(isinstance(step.end, Complete) for step in play(both()))
    assert [shell.asked for shell in desk.shells] == [2]


def test_a_forgotten_activation_leaves_no_pool_and_no_password(desk: Desk) -> None:
    async def forgotten() -> None:
        await desk.core.next_batch(desk.work())
        await desk.core.forget(CONTOSO, RUN, 1)

    play(forgotten())

    [shell] = desk.shells
    assert shell.closed
    assert is_closed(shell.password)


def test_forgetting_one_tenant_leaves_the_others_alone(desk: Desk) -> None:
    async def forgotten() -> None:
        await desk.core.next_batch(desk.work())
        await desk.core.next_batch(desk.work(tenant=FABRIKAM))
        await desk.core.forget(CONTOSO, RUN, 1)
        await desk.core.next_batch(desk.work(tenant=FABRIKAM))

    play(forgotten())

    assert [(shell.closed, shell.asked) for shell in desk.shells] == [(True, 1), (False, 2)]


def test_a_former_activation_cannot_make_a_later_one_forgotten(desk: Desk) -> None:
    async def overtaken() -> None:
        await desk.core.next_batch(desk.work(epoch=2))
        await desk.core.forget(CONTOSO, RUN, 1)

    play(overtaken())

    assert not desk.shells[0].closed


def test_a_later_activation_ends_a_former_one_in_the_middle_of_its_work(desk: Desk) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def endless() -> Response:
        begun.set()
        await never.wait()
        return ANSWER

    async def overtaken() -> None:
        desk.answer = endless  # type: ignore[method-assign]
        former = asyncio.ensure_future(desk.core.next_batch(desk.work(epoch=1)))
        await begun.wait()
        del desk.answer
        await desk.core.next_batch(desk.work(epoch=2))
        with pytest.raises(ActivationLost):
            await former
        with pytest.raises(ActivationLost):
            await desk.core.next_batch(desk.work(epoch=1))
        await desk.core.aclose()

    play(overtaken())

    assert [shell.closed for shell in desk.shells] == [True, True]


def test_what_is_under_way_for_a_forgotten_activation_is_given_up(desk: Desk) -> None:
    begun = asyncio.Event()

    async def endless() -> Response:
        begun.set()
        await asyncio.Event().wait()
        return ANSWER

    async def forgotten() -> None:
        desk.answer = endless  # type: ignore[method-assign]
        working = asyncio.ensure_future(desk.core.next_batch(desk.work()))
        await begun.wait()
        await desk.core.forget(CONTOSO, RUN, 1)
        with pytest.raises(ActivationLost):
            await working

    play(forgotten())

    assert is_closed(desk.shells[0].password)


def test_an_activation_that_asks_nothing_any_more_is_forgotten_in_time(desk: Desk) -> None:
    async def idle() -> None:
        await desk.core.next_batch(desk.work())
        desk.clock.seconds += IDLE_SECONDS + 1
        await desk.core.next_batch(desk.work(tenant=FABRIKAM))
        await asyncio.sleep(0)

    play(idle())

    assert [shell.closed for shell in desk.shells] == [True, False]


def test_so_many_activations_are_kept_and_no_more(desk: Desk) -> None:
    async def many() -> None:
        for number in range(MOST_BINDINGS + 3):
            await desk.core.next_batch(desk.work(run=new_run_id(BEGIN, number)))
        await asyncio.sleep(0)

    play(many())

    assert sum(not shell.closed for shell in desk.shells) == MOST_BINDINGS


def test_a_refused_password_is_not_tried_again_by_another_dataset(desk: Desk) -> None:
    async def refused() -> Response:
        raise SignInFailed(0, "permanent-credential", "Wrong.", "Seal the right one.")

    async def both() -> list[object]:
        desk.answer = refused  # type: ignore[method-assign]
        names = ("onprem.mailboxes", "onprem.receive-connectors")
        return await asyncio.gather(*(desk.core.next_batch(desk.work(name)) for name in names), return_exceptions=True)

    assert [type(one) for one in play(both())] == [SignInFailed, SignInFailed]
    assert [shell.asked for shell in desk.shells] == [1]


def test_work_that_is_sealed_to_a_former_self_is_refused(desk: Desk) -> None:
    work = msgspec.structs.replace(desk.work(), sealed_to=TransitKey.generate().public)

    with pytest.raises(TransitKeyChanged):
        play(desk.core.next_batch(work))


def test_a_secret_sealed_for_one_dataset_does_not_open_for_another(desk: Desk) -> None:
    work = msgspec.structs.replace(desk.work(), token=desk.work("onprem.receive-connectors").token)

    with pytest.raises(SealBroken):
        play(desk.core.next_batch(work))
