"""What goes wrong on the wire, the same for every service: throttling, 5xx, resets, cut bodies and slow answers.

A fault of any other kind belongs to a service's own protocol and is handed to the service that produces the answer,
which says for each request what kinds of its own can befall it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from simulator.world import Fault, World

TRANSPORT = "simulator.transport"
"""Where the server puts a connection's transport in the ASGI scope."""
REQUESTS_KEPT = 20_000
NO_ANSWER = 0
"""The status recorded for a request whose connection was reset."""
UNKNOWN_TENANT = "unknown"
"""Stands for the tenant of a request that names none there is."""
LONGEST_WAIT_SECONDS = 600.0
WIRE = frozenset({"throttle", "error", "reset", "cut", "slow"})
"""The kinds that every route has."""

Produce = Callable[[Fault | None], Awaitable[Response]]
Refuse = Callable[[int, dict[str, str]], Response]


async def answered(  # noqa: PLR0917 - a request is told by all six
    world: World,
    tenant_id: str,
    route: str,
    request: Request,
    produce: Produce,
    refuse: Refuse,
    *,
    own: Collection[str] = (),
) -> Response:
    """The answer to a request of `route`, with the fault that the world has in store for it; recorded in the world.

    `refuse(status, headers)` words a refusal the way the service does; `produce(fault)` makes the proper answer and
    performs the faults of the service's own protocol, of a kind in `own`.
    """
    fault = world.take_fault(tenant_id, route, WIRE.union(own))
    kind = fault.kind if fault else None
    options = fault.options if fault else {}
    match kind:
        case "throttle":
            response = refuse(429, retry_after(options, 1))
        case "error":
            response = refuse(int(options.get("status", 503)), retry_after(options))
        case "reset":
            response = Reset()
        case "cut":
            response = Cut(await produce(None))
        case "slow":
            await delay(options)
            response = await produce(None)
        case _:
            response = await produce(fault)
    record(world, tenant_id, route, request.url.path, response.status_code)
    return response


def record(world: World, tenant_id: str, route: str, path: str, status: int) -> None:
    """Count and note an answered request, forgetting the oldest ones when there are too many."""
    world.counters[tenant_id, route, status] += 1
    world.requests.append((tenant_id, route, path, status))
    if len(world.requests) > REQUESTS_KEPT:
        del world.requests[: REQUESTS_KEPT // 10]


def retry_after(options: Mapping[str, Any], default: Any = None) -> dict[str, str]:
    """`Retry-After` as given: a number, a decimal, a date, or no header at all for None."""
    value = options.get("retry_after", default)
    return {} if value is None else {"Retry-After": str(value)}


async def delay(options: Mapping[str, Any]) -> None:
    """As long as a slow answer takes."""
    await asyncio.sleep(min(float(options.get("seconds", 1.0)), LONGEST_WAIT_SECONDS))


class Reset(Response):
    """No answer: the connection ends with a TCP reset."""

    def __init__(self) -> None:
        super().__init__(status_code=204)
        self.status_code = NO_ANSWER

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope[TRANSPORT]
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await _gone(receive)


class Cut(Response):
    """The whole answer is announced, half of it is sent, and the connection closes."""

    def __init__(self, whole: Response) -> None:
        super().__init__(status_code=whole.status_code)
        self.whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(self.whole)
        headers = [(name, value) for name, value in self.whole.raw_headers if name.lower() != b"content-length"]
        headers.append((b"content-length", str(max(len(body), 2)).encode()))
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        scope[TRANSPORT].close()
        await _gone(receive)


async def _body(response: Response) -> bytes:
    """The body of a plain or of a streaming response."""
    chunks = getattr(response, "body_iterator", None)
    if chunks is None:
        return bytes(response.body)
    return b"".join([chunk.encode() if isinstance(chunk, str) else bytes(chunk) async for chunk in chunks])


async def _gone(receive: Receive) -> None:
    """Return when the server has noticed that the connection is over."""
    while (await receive())["type"] != "http.disconnect":
        continue
