"""A session carries out one collection: it performs what the reader asks and stores the rows, batch by batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from collectors.batch import BatchWriter
from collectors.reader import UNANSWERED, Reader, Request, Response
from collectors.work import Batch, End, Step, Truncated
from crypto.batch import BatchEncoder
from domain.errors import ConnectionLost, ProtocolViolation, ServiceUnavailable, TenantryError, Throttled, TokenExpired

Perform = Callable[[Request], Awaitable[Response]]

LIMIT_BYTES = 8 << 20
MOST_REQUESTS = 500
"""After so many requests what there is becomes a batch, without a row if need be, so that slow datasets make progress
that survives."""

GIVEN_UP: dict[type[TenantryError], str] = {
    Throttled: "throttled",
    ServiceUnavailable: "unavailable",
    ConnectionLost: "unavailable",
    ProtocolViolation: "protocol",
}
"""What the transport raises after its last attempt, and the reason the collection then ends truncated for."""


class Session:
    """`perform` sends a request with the access token of the moment. One `next_batch` at a time."""

    def __init__(self, reader: Reader, perform: Perform, writer: BatchWriter, limit_bytes: int = LIMIT_BYTES) -> None:
        self._reader = reader
        self._perform = perform
        self._writer = writer
        self._limit_bytes = limit_bytes
        self._recorded = reader.cursor
        self._end: End | None = None
        self._expired: TokenExpired | None = None
        self._requests = 0
        """Those that no step has told of."""

    async def next_batch(self) -> Step:
        """Reads until a batch is full and stored, or to the end. After a step with an `end` there is nothing more.

        Raises `TokenExpired` when the service wants a fresh access token: get one and call again, nothing is lost.
        Raises what `perform` and the batch store raise, except what `GIVEN_UP` turns into an end.
        """
        if self._expired is not None:
            expired, self._expired = self._expired, None
            raise expired
        encoder = self._writer.begin()
        await self._fill(encoder)
        end = self._end or self._reader.end
        batch = await self._store(encoder) if encoder.rows or (end is None and self._moved) else None
        requests, self._requests = self._requests, 0
        return Step(batch=batch, end=end, requests=requests)

    @property
    def _moved(self) -> bool:
        return self._reader.cursor != self._recorded

    async def _fill(self, encoder: BatchEncoder) -> None:
        """Pages into the encoder, the next one being fetched while the last one is compressed."""
        requests = taken = 0
        compressing: asyncio.Future[None] | None = None
        try:
            while taken < self._limit_bytes and requests < MOST_REQUESTS and self._end is None:
                request = self._reader.next_request()
                if request is None:
                    break
                requests += 1
                self._requests += 1
                rows = self._reader.receive(await self._answer(request))
                if compressing is not None:
                    await compressing
                    compressing = None
                if rows:
                    taken += sum(map(len, rows))
                    compressing = asyncio.ensure_future(asyncio.to_thread(encoder.add, rows))
        except TokenExpired as expired:
            if not self._moved:
                raise
            self._expired = expired  # what was read so far becomes a batch first
        except tuple(GIVEN_UP) as error:
            self._end = Truncated(GIVEN_UP[type(error)], str(error))
        finally:
            if compressing is not None:
                await compressing

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._perform(request)
        except tuple(GIVEN_UP):
            if request.optional:
                return UNANSWERED
            raise

    async def _store(self, encoder: BatchEncoder) -> Batch:
        sealed, facts = await asyncio.to_thread(encoder.finish)
        await self._writer.store(sealed, facts)
        after, self._recorded = self._recorded, self._reader.cursor
        if self._recorded is None:
            raise AssertionError("a reader that moved has a cursor")
        return Batch(**msgspec.structs.asdict(facts), requests=self._requests, after=after, cursor=self._recorded)
