"""HTTP, and the only user of httpx: sends one request, again and again within bounds, and reads a bounded answer.

Connection errors, cut bodies and the verdicts in `verdicts.REPEATED` are tried again after a wait; everything else is
an answer. Time, waiting and chance are arguments.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import uuid4

import httpx

from collectors.reader import Request, Response
from collectors.throttle import Buckets, retry_after
from collectors.verdicts import REPEATED, service_error, verdict
from crypto.secret import Secret
from domain.errors import ConnectionLost, Malformed, ProtocolViolation, ServiceUnavailable, Throttled, TransientError
from domain.settings import Cloud

USER_AGENT = "NONISV|Tenantry|Tenantry/0.1"
"""Microsoft asks for this form and gives decorated traffic the better priority."""
MOST_BODY_BYTES = 64 << 20
MOST_ERROR_BYTES = 1 << 20
TIMEOUT = httpx.Timeout(connect=15.0, read=120.0, write=60.0, pool=120.0)
CONNECTIONS = httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=60.0)


class Patience(NamedTuple):
    """How long one request is tried: so many failures, and so many seconds of waiting. To be asked for fewer requests
    is no failure: as long as the service says when to come back, only the seconds count."""

    attempts: int = 8
    seconds: float = 3600.0
    longest_back_off: float = 60.0


PATIENCE = Patience()
BRIEFLY = Patience(attempts=2, seconds=10.0, longest_back_off=1.0)
"""For a question that somebody waits for at a terminal."""
LEAST_WAIT_SECONDS = 0.5
"""However short a wait the service asks for."""


class _Cut(Exception):
    """The body cannot be read to its end."""


class HttpTransport:
    """For one cloud. `timeout`, `wait`, `clock` (steady seconds) and `chance` (0 to 1) are there for tests to give
    their own."""

    def __init__(
        self,
        cloud: Cloud,
        *,
        buckets: Buckets | None = None,
        patience: Patience = PATIENCE,
        timeout: httpx.Timeout = TIMEOUT,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO shows addresses that open reports
        self._client = httpx.AsyncClient(
            verify=tls_context(cloud.ca_bundle), timeout=timeout, limits=CONNECTIONS, follow_redirects=False
        )
        self._buckets = buckets or Buckets()
        self._patience = patience
        self._wait = wait
        self._clock = clock
        self._chance = chance

    async def aclose(self) -> None:
        await self._client.aclose()

    async def perform(self, request: Request, token: Secret) -> Response:
        """The service's answer. Raises `Throttled`, `ServiceUnavailable` or `ConnectionLost` after the last attempt."""
        if request.wait:
            await self._wait(request.wait)
        waited, tried, failures = 0.0, 0, 0
        while True:
            pause = self._buckets.take(request.tenant, request.bucket, request.cost, self._clock())
            if pause:
                await self._wait(pause)
            answer = await self._attempt(request, token)
            if isinstance(answer, Response):
                return answer
            failure, asked = answer
            tried += 1
            failures += not isinstance(failure, Throttled)
            seconds = max(asked, LEAST_WAIT_SECONDS) if asked else self._back_off(tried)
            waited += seconds
            if failures >= self._patience.attempts or waited > self._patience.seconds:
                raise failure
            await self._wait(seconds)

    async def _attempt(self, request: Request, token: Secret) -> Response | tuple[TransientError, float | None]:
        """An answer, or why there is none and how long the service asks to wait."""
        try:
            response = await self._send(request, token)
        except httpx.TransportError as error:
            return ConnectionLost(request.workload, type(error).__name__), None
        except _Cut as error:
            return ConnectionLost(request.workload, str(error)), None
        except httpx.InvalidURL:
            raise ProtocolViolation(request.workload, "a link that is no address") from None
        self._buckets.observe(request.tenant, request.bucket, response.status, response.headers, self._clock())
        if response.status == 200:
            return response
        said = service_error(response.body)
        found = verdict(request.workload, response.status, said)
        if found not in REPEATED:
            return response
        seconds = retry_after(response.headers)
        if found == "throttled":
            return Throttled(request.workload, seconds or 0.0), seconds
        return ServiceUnavailable(request.workload, response.status, said.shown), seconds

    async def _send(self, request: Request, token: Secret) -> Response:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip", "client-request-id": str(uuid4())}
        headers.update(request.headers)
        if request.authorized:
            headers["Authorization"] = f"Bearer {token.text()}"
        content = request.body or None
        async with self._client.stream(request.method, request.url, headers=headers, content=content) as answer:
            kept = {name.lower(): value for name, value in answer.headers.items()}
            body = await self._body(answer, kept.get("content-encoding", "identity").lower(), request)
            return Response(status=answer.status_code, headers=kept, body=body)

    async def _body(self, answer: httpx.Response, encoding: str, request: Request) -> bytes:
        """The status decides before the body does: a refusal with an unreadable body is a refusal without one."""
        fine = answer.status_code == 200
        most = MOST_BODY_BYTES if fine else MOST_ERROR_BYTES
        try:
            raw = bytearray()
            async for part in answer.aiter_raw():
                raw += part
                if len(raw) > most:
                    raise ProtocolViolation(request.workload, f"a body of more than {most} bytes")
            return decompressed(bytes(raw), encoding, most, request.workload)
        except (_Cut, ProtocolViolation, httpx.TransportError):
            if fine:
                raise
            return b""

    def _back_off(self, attempt: int) -> float:
        """1, 2, 4... seconds, each shortened by up to half by chance."""
        longest = min(self._patience.longest_back_off, 2.0 ** min(attempt - 1, 30))
        return longest * (1.0 - self._chance() / 2)


def tls_context(ca_bundle: str) -> ssl.SSLContext:
    """Trusts the authorities of the PEM file alone, or the public ones. Raises `Malformed` for an unusable file."""
    if not ca_bundle:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError):
        raise Malformed("CA bundle", ca_bundle, "a PEM file with certificates") from None


def decompressed(raw: bytes, encoding: str, most: int, workload: str) -> bytes:
    """Undo gzip, never beyond `most` bytes. Raises `_Cut` for what is no whole gzip, and `ProtocolViolation` for a bomb
    or for more behind the end: the rest of a report would be missed in silence."""
    if encoding in ("identity", ""):
        return raw
    if encoding != "gzip":
        raise ProtocolViolation(workload, f"content encoding {encoding[:20]!r}, which nobody asked for")
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        body = unzip.decompress(raw, most + 1)
    except zlib.error as error:
        raise _Cut("a body that is no gzip") from error
    if len(body) > most:
        raise ProtocolViolation(workload, f"a body of more than {most} bytes")
    if not unzip.eof:
        raise _Cut("a body that was cut off")
    if unzip.unused_data:
        raise ProtocolViolation(workload, "a gzip body with more behind its end")
    return body
