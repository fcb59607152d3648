"""What the Exchange admin API puts on the wire: annotated rows, pages, the shapes of its errors, and open walks.

Shapes follow captures of the live service: errors carry a generic message, the real one is inside `innererror` and in
`details` as `Exchange code|.NET type|text`, where the code may be empty.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from simulator.cmdlets import REFUSALS, CmdletRefused, Refusal, Result
from simulator.mailboxes import Row

CONTENT_TYPE = "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"
ODATA_EXCEPTION = "Microsoft.Exchange.Admin.OData.Core.ODataServiceException"
EXPIRED_PAGE = "Expired or Invalid pagination request. Default Expiry time is 00:30:00"
TOO_MANY_REQUESTS = "You have reached the maximum number of concurrent requests per tenant. Please wait and try again"
NUL_BODY = bytes(96)

SERVICE_REFUSALS: Mapping[str, tuple[Refusal, str]] = {
    "expired-page": (
        Refusal(400, "BadRequest", "Microsoft.Exchange.Admin.OData.Core.PaginationException", detailed=False),
        EXPIRED_PAGE,
    ),
    "transient": (
        Refusal(400, "BadRequest", "Microsoft.Exchange.Data.Directory.ADTransientException|TransientException"),
        "The directory did not answer in time. The issue may be transient.",
    ),
    "concurrency": (
        Refusal(429, "TooManyRequests", "Microsoft.Exchange.AdminApi.ConcurrencyExceededException"),
        TOO_MANY_REQUESTS,
    ),
    "rate": (Refusal(429, "TooManyRequests", "Microsoft.Exchange.AdminApi.RateExceededException"), "Rate exceeded."),
    "malformed": (
        Refusal(400, "BadRequest", "Microsoft.OData.ODataException", detailed=False),
        "The request body is not a CmdletInput.",
    ),
    "unavailable": (
        Refusal(503, "ServiceUnavailable", "Microsoft.Exchange.Data.Storage.ServerBusyException"),
        "The server cannot service this request right now. Try again later.",
    ),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, alone or inside a batch: `body` is JSON, or the NUL bytes of a refusal."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Walk:
    """One reading of a cmdlet's result over several pages, as it was when it began."""

    result: Result
    command: Mapping[str, Any]
    anchor: str | None
    began: float
    expired: bool = False
    warnings: list[str] = field(default_factory=list)
    """Added to the last page's warnings."""


class Walks:
    """The walks that are open; the oldest is forgotten when there are more than `most`."""

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._open: OrderedDict[str, Walk] = OrderedDict()

    def keep(self, walk: Walk) -> str:
        name = secrets.token_hex(12)
        self._open[name] = walk
        while len(self._open) > self._most:
            self._open.popitem(last=False)
        return name

    def find(
        self, token: str, command: Mapping[str, Any], anchor: str | None, lifetime: timedelta
    ) -> tuple[str, Walk, int]:
        """The walk a link goes on with, by its name, and how many subjects were shown before; raises KeyError."""
        _server, _, rest = token.partition("|")
        name, _, offset = rest.partition("|")
        walk = self._open[name]
        age = time.monotonic() - walk.began
        if walk.expired or age > lifetime.total_seconds() or walk.command != command or not offset.isdigit():
            raise KeyError(name)
        if not anchor or walk.anchor != anchor:
            raise KeyError(name)
        return name, walk, int(offset)


def annotated(row: Row, select: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The row as JSON values, each preceded by its OData annotations; only the selected properties, if any are."""
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if select and name.lower() not in select:
            continue
        match value:
            case UUID():
                shown[f"{name}@data.type"] = "System.Guid"
                shown[f"{name}@odata.type"] = "#Guid"
                shown[name] = str(value)
            case datetime():
                shown[f"{name}@data.type"] = "System.DateTime"
                shown[name] = value.isoformat().replace("+00:00", "Z")
            case timedelta():
                shown[name] = duration(value)
            case list():
                shown[f"{name}@odata.type"] = "#Collection(String)"
                shown[name] = value
            case _:
                shown[name] = value
    return shown


def duration(value: timedelta) -> str:
    """A .NET TimeSpan: `90.00:00:00`, or `06:00:00` under a day."""
    hours, rest = divmod(value.seconds, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{value.days}.{clock}" if value.days else clock


def page(rows: Sequence[dict[str, Any]], *, context: str, warnings: Sequence[str], next_link: str | None) -> bytes:
    shown: dict[str, Any] = {
        "@odata.context": context,
        "adminapi.warnings@odata.type": "#Collection(String)",
        "@adminapi.warnings": list(warnings),
        "value": rows,
    }
    if next_link:
        shown["@odata.nextLink"] = next_link
    return msgspec.json.encode(shown)


def refused(kind: str, headers: Mapping[str, str] | None = None, status: int | None = None) -> Answer:
    """A refusal of the service itself, a key of `SERVICE_REFUSALS`."""
    refusal, text = SERVICE_REFUSALS[kind]
    return _error(refusal, text, headers or {}, status)


def refused_cmdlet(error: CmdletRefused) -> Answer:
    return _error(REFUSALS[error.kind], str(error), {}, None)


def forbidden() -> Answer:
    """What comes without a role: NUL bytes that say they are gzip."""
    return Answer(403, NUL_BODY, {"Content-Encoding": "gzip"})


def _error(refusal: Refusal, text: str, headers: Mapping[str, str], status: int | None) -> Answer:
    exception = refusal.exception.partition("|")[0]
    inner_type = refusal.exception.rpartition("|")[2]
    error: dict[str, Any] = {
        "code": refusal.code,
        "message": "Error executing cmdlet" if refusal.detailed else "Invalid Operation",
    }
    if refusal.detailed:
        detail = f"{refusal.mark}|{exception}|{text}"
        error["details"] = [{"code": "Context", "target": "", "message": detail}]
    error["innererror"] = {
        "message": error["message"],
        "type": ODATA_EXCEPTION,
        "stacktrace": "   at Microsoft.Exchange.Admin.OData.Core.Execute()",
        "internalexception": {"message": text, "type": inner_type, "stacktrace": "   at Microsoft.Exchange.Run()"},
    }
    body = msgspec.json.encode({"error": error, "@adminapi.warnings": []})
    return Answer(status or refusal.status, body, {"X-ExceptionType": exception.rpartition(".")[2], **headers})
