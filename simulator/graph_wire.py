"""What passes between the parts of Graph: a call, its answer, its refusal, and the bytes both have on the wire.

Error codes and headers follow Microsoft's documentation of Graph errors and throttling; the sentences are ours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any, Generic, TypeVar
from uuid import uuid4

import msgspec
from starlette.responses import Response

from simulator.tokens import Claims
from simulator.world import Tenant

JSON = "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"
CLOCK_FORMAT = "%Y-%m-%dT%H:%M:%S"
DIAGNOSTIC = (
    '{"ServerInfo":{"DataCenter":"Loopback","Slice":"E","Ring":"5","ScaleUnit":"000","RoleInstance":"SIM0000000"}}'
)

CODES: Mapping[int, tuple[str, str]] = {
    400: ("Request_BadRequest", "The request is not valid."),
    401: ("InvalidAuthenticationToken", "Access token is missing or not valid."),
    403: ("Authorization_RequestDenied", "Insufficient privileges to complete the operation."),
    404: ("Request_ResourceNotFound", "The resource does not exist."),
    405: ("Request_BadRequest", "The method is not allowed here."),
    429: ("TooManyRequests", "Please retry again later."),
    500: ("InternalServerError", "An unexpected error occurred."),
    502: ("BadGateway", "The gateway got no valid answer."),
    503: ("serviceNotAvailable", "The service is not available."),
    504: ("GatewayTimeout", "The gateway got no answer in time."),
}

encode = msgspec.json.Encoder().encode

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """The last `limit` results by key; the one not asked for longest is forgotten first. Safe to share by threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            value = self._kept[key] = make()
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
            return value


@dataclass(frozen=True, slots=True)
class Views:
    """What one service keeps between calls, all of it bounded.

    `rows` holds, for each selection of properties, by id: the item, the sequence of its last change, and its JSON.
    """

    orders: Remembered[tuple[object, ...], list[str]] = field(default_factory=lambda: Remembered(256))
    counts: Remembered[tuple[object, ...], Mapping[str, int]] = field(default_factory=lambda: Remembered(256))
    files: Remembered[tuple[object, ...], bytes] = field(default_factory=lambda: Remembered(8))
    logs: Remembered[tuple[object, ...], list[Any]] = field(default_factory=lambda: Remembered(16))
    rows: Remembered[tuple[str, ...], dict[str, tuple[object, int, bytes]]] = field(
        default_factory=lambda: Remembered(6)
    )


def identity(tenant: Tenant) -> object:
    """A key for what is kept about this tenant, different from that of another one made from the same seed."""
    return tenant.derived.setdefault("graph", (0, object()))[1]


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated question, alone or in a `$batch`. `path` is below the version; header names are lower case."""

    tenant: Tenant
    claims: Claims
    origin: str
    version: str
    path: str
    options: Mapping[str, str]
    headers: Mapping[str, str]
    now: datetime
    views: Views
    request_id: str = field(default_factory=lambda: str(uuid4()))

    @property
    def client_request_id(self) -> str:
        return self.headers.get("client-request-id", self.request_id)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = JSON


class Refused(Exception):
    """An answer that is an error: status, code, message and headers of its own."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, code, message, headers)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


def error_body(code: str, message: str, now: datetime, request_id: str, client_request_id: str) -> bytes:
    inner = {"date": now.strftime(CLOCK_FORMAT), "request-id": request_id, "client-request-id": client_request_id}
    return encode({"error": {"code": code, "message": message, "innerError": inner}})


def refusal(call: Call, refused: Refused) -> Answer:
    body = error_body(refused.code, refused.message, call.now, call.request_id, call.client_request_id)
    return Answer(refused.status, body, refused.headers, "application/json")


def refusal_of(call: Call, status: int, headers: Mapping[str, str]) -> Answer:
    """The error Graph has for this status, whatever went wrong."""
    code, message = CODES.get(status, ("UnknownError", "An unknown error has occurred."))
    return refusal(call, Refused(status, code, message, headers))


def response(answer: Answer, request_id: str, client_request_id: str) -> Response:
    headers = {
        "request-id": request_id,
        "client-request-id": client_request_id,
        "x-ms-ags-diagnostic": DIAGNOSTIC,
        "Strict-Transport-Security": "max-age=31536000",
        "Cache-Control": "no-cache",
        "OData-Version": "4.0",
        **answer.headers,
    }
    return Response(answer.body, answer.status, headers, answer.media_type)


def wire_time(moment: datetime) -> str:
    """A time in UTC as Graph writes it, to the second."""
    return moment.isoformat(timespec="seconds")[:19] + "Z"
