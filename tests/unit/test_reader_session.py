"""A session between a reader, a service that is a list of answers, and a store in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import pytest

from collectors.batch import BatchWriter
from collectors.catalog import load_catalog
from collectors.reader import Request, Response
from collectors.readers import reader_for
from collectors.session import MOST_REQUESTS, Session
from collectors.work import Assignment, Complete, Step, Truncated
from crypto.batch import decode_batch
from crypto.datakey import new_data_key
from domain.errors import (
    ConnectionLost,
    ProtocolViolation,
    ServiceUnavailable,
    StorageFull,
    Throttled,
    TokenExpired,
)
from domain.ids import Dataset, RunId, TenantId
from domain.settings import CLOUDS
from eventstore.batches import BatchStore, open_batch_store

NAME = Dataset("entra.subscribed-skus")
TENANT = TenantId("11111111-2222-3333-4444-555555555555")
LINK = f"{CLOUDS['public'].graph}/v1.0/subscribedSkus?$skiptoken="


def page(number: int, last: bool = False) -> Response:
    body: dict[str, object] = {"value": [{"n": number}]}
    if not last:
        body["@odata.nextLink"] = f"{LINK}{number}"
    return Response(status=200, headers={}, body=json.dumps(body).encode())


def empty(number: int) -> Response:
    body = {"value": [], "@odata.nextLink": f"{LINK}{number}"}
    return Response(status=200, headers={}, body=json.dumps(body).encode())


class Full:
    """A store without room."""

    async def put(self, key: str, data: bytes) -> None:
        raise StorageFull("memory", "no room")

    async def get(self, key: str) -> bytes:
        raise AssertionError

    async def exists(self, key: str) -> bool:
        return False


class Scene:
    """A session whose service gives these answers, errors among them, one after the other."""

    def __init__(
        self,
        answers: Iterable[Response | Exception],
        limit_bytes: int = 1 << 20,
        store: BatchStore | None = None,
        name: Dataset = NAME,
        cursor: str | None = None,
    ) -> None:
        self.answers = iter(answers)
        self.key = new_data_key()
        self.store = store or open_batch_store("memory://")
        assignment = Assignment(
            tenant=TENANT,
            run=RunId("20261122T203000-0a1b2c3d"),
            dataset=name,
            mode="full",
            cloud=CLOUDS["public"],
            cursor=cursor,
        )
        reader = reader_for(load_catalog()[name], assignment)
        self.session = Session(reader, self.perform, BatchWriter(self.store, self.key, TENANT, name), limit_bytes)

    async def perform(self, request: Request) -> Response:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def rows(self, step: Step) -> list[int]:
        assert step.batch is not None
        sealed = await self.store.get(step.batch.key)
        return [json.loads(row)["n"] for row in decode_batch(sealed, self.key, TENANT, NAME, step.batch.digest)]


def test_batches_go_on_where_the_last_one_ended() -> None:
    async def scenario() -> None:
        scene = Scene([page(1), page(2), page(3, last=True)], limit_bytes=1)
        steps = [await scene.session.next_batch() for _ in range(3)]
        batches = [step.batch for step in steps if step.batch]
        assert [await scene.rows(step) for step in steps] == [[1], [2], [3]]
        assert [batch.after for batch in batches] == [None, batches[0].cursor, batches[1].cursor]
        assert [step.end for step in steps] == [None, None, Complete()]

    asyncio.run(scenario())


def test_a_token_that_expires_costs_nothing_that_was_read() -> None:
    async def scenario() -> None:
        refused = Response(status=401, headers={}, body=b"")
        scene = Scene([page(1), refused, page(2, last=True)])
        first = await scene.session.next_batch()
        with pytest.raises(TokenExpired):
            await scene.session.next_batch()
        second = await scene.session.next_batch()
        assert (await scene.rows(first), await scene.rows(second)) == ([1], [2])
        assert first.end is None
        assert second.end == Complete()

    asyncio.run(scenario())


def test_the_request_that_found_the_token_expired_counts_as_well() -> None:
    async def scenario() -> None:
        refused = Response(status=401, headers={}, body=b"")
        scene = Scene([refused, page(1, last=True)])
        with pytest.raises(TokenExpired):
            await scene.session.next_batch()
        step = await scene.session.next_batch()
        assert step.batch is not None
        assert (step.batch.requests, step.requests) == (2, 2)

    asyncio.run(scenario())


def test_many_requests_without_a_row_are_progress_that_survives() -> None:
    async def scenario() -> None:
        scene = Scene([empty(n) for n in range(MOST_REQUESTS)])
        step = await scene.session.next_batch()
        assert step.batch is not None
        assert (await scene.rows(step), step.batch.rows) == ([], 0)
        assert (step.batch.requests, step.requests, step.end) == (MOST_REQUESTS, MOST_REQUESTS, None)
        later = await Scene([page(1, last=True)], cursor=step.batch.cursor).session.next_batch()
        assert later.batch is not None
        assert (later.batch.after, later.batch.rows, later.end) == (step.batch.cursor, 1, Complete())

    asyncio.run(scenario())


def test_a_pass_that_ends_without_a_row_needs_no_batch() -> None:
    async def scenario() -> None:
        none = Response(status=200, headers={}, body=b'{"value":[]}')
        step = await Scene([empty(1), none]).session.next_batch()
        assert step == Step(batch=None, end=Complete(), requests=2)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ConnectionLost("graph", "ReadError"), "unavailable"), (ProtocolViolation("graph", "too long"), "protocol")],
)
def test_what_the_transport_gives_up_truncates_behind_the_rows_that_were_read(error: Exception, reason: str) -> None:
    async def scenario() -> None:
        scene = Scene([page(1), error])
        step = await scene.session.next_batch()
        assert await scene.rows(step) == [1]
        assert isinstance(step.end, Truncated)
        assert step.end.reason == reason

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error", [ServiceUnavailable("graph", 503, ""), Throttled("graph", 5.0), ConnectionLost("graph", "ReadError")]
)
def test_users_that_nobody_counts_are_read_all_the_same(error: Exception) -> None:
    async def scenario() -> None:
        link = f"{CLOUDS['public'].graph}/v1.0/users/delta?$deltatoken=x"
        users = Response(status=200, headers={}, body=json.dumps({"value": [{}], "@odata.deltaLink": link}).encode())
        step = await Scene([error, users], name=Dataset("entra.users")).session.next_batch()
        assert step.batch is not None
        assert (step.batch.rows, step.requests, step.end) == (1, 2, Complete(delta_link=link))

    asyncio.run(scenario())


def test_a_batch_that_cannot_be_stored_is_not_reported() -> None:
    async def scenario() -> None:
        with pytest.raises(StorageFull):
            await Scene([page(1, last=True)], store=Full()).session.next_batch()

    asyncio.run(scenario())
