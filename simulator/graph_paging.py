"""Query options, and the opaque tokens that carry them from page to page and from round to round.

A page token names the last id that was given, not a number of rows: whatever else changes during a round, an item that
exists from its first page to its last is given in it. Settings of a tenant: `replayed_rows` repeats that many rows of
the page before on each later page (not of groups, which come in portions); `empty_pages` = n makes every nth page an
empty one with a next link.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from simulator.graph_wire import Answer, Call, Refused, encode
from simulator.world import Fault, Tenant

MAC_BYTES = 16
TOKEN_LIMIT = 4_096
DELTA_LIFETIME = timedelta(days=7)
FULL = -1
BAD_TOKEN = (ValueError, zlib.error, msgspec.DecodeError)
"""What `unseal` and decoding raise for a token that is not what it should be."""


class Continuation(msgspec.Struct, frozen=True, array_like=True):
    """Where a round stands, with its query options frozen in it.

    `sequence` is the tenant's at the start of the round; `since` is the one after which changes are wanted, or `FULL`.
    `after` is the last id given, `inside` the last member given of the group `after`, "" when it was finished.
    `doom` is the fault that a link meets whenever it is used.
    """

    route: str
    kind: str
    sequence: int
    issued: float
    since: int = FULL
    after: str = ""
    inside: str = ""
    page: int = 0
    size: int = 0
    select: tuple[str, ...] | None = None
    filter: str | None = None
    doom: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """The options of a call, from its URL or from the token that froze them. `doom` falls on the links it issues."""

    select: tuple[str, ...] | None
    top: int | None
    counted: bool
    expanded: bool
    filter: str | None
    token: Continuation | None
    doom: str | None = None


def seal(tenant: Tenant, token: msgspec.Struct) -> str:
    """The token as text that only this tenant accepts and that cannot be altered."""
    payload = zlib.compress(msgspec.msgpack.encode(token), 1)
    return base64.urlsafe_b64encode(_mac(tenant, payload) + payload).rstrip(b"=").decode()


def unseal(tenant: Tenant, text: str) -> bytes:
    """The msgpack bytes in a token. ValueError for one that is altered, cut or another tenant's."""
    if len(text) > TOKEN_LIMIT:
        raise ValueError("a token is longer than any that was issued")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("a token is not base64url") from error
    mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(tenant, payload)):
        raise ValueError("a token was not issued for this tenant")
    return zlib.decompress(payload)


def _mac(tenant: Tenant, payload: bytes) -> bytes:
    key = f"{tenant.id}:{tenant.seed}".encode()
    return hashlib.blake2b(payload, digest_size=MAC_BYTES, key=key).digest()


def read_query(call: Call, route: str, allowed: frozenset[str], fault: Fault | None) -> Query:
    """The options of a call to `route`. Refuses unknown ones, and tokens that are bad, doomed or of another route."""
    options = call.options
    unsupported = sorted(name for name in options if name.startswith("$") and name not in allowed)
    if unsupported:
        message = f"Query option '{unsupported[0]}' is not supported on this resource."
        raise Refused(400, "Request_UnsupportedQuery", message)
    token = _token(call, route, "skip", options.get("$skiptoken")) or _token(
        call, route, "delta", options.get("$deltatoken")
    )
    doom = fault.kind if fault is not None and fault.kind in DOOMS else None
    doomed = (token.doom or doom) if token is not None else None
    if token is not None and doomed is not None:
        raise DOOMS[doomed](call, token)
    if token is not None:
        return Query(token.select, token.size, False, False, token.filter, token)
    select = options.get("$select")
    names = tuple(dict.fromkeys(n.strip() for n in select.split(",") if n.strip())) if select else None
    return Query(
        names,
        _whole(options.get("$top")),
        options.get("$count", "").lower() == "true",
        "$expand" in options,
        options.get("$filter"),
        None,
        doom,
    )


def _token(call: Call, route: str, kind: str, text: str | None) -> Continuation | None:
    if not text or text == "latest":
        return None
    try:
        token = msgspec.msgpack.decode(unseal(call.tenant, text), type=Continuation)
    except BAD_TOKEN as error:
        raise Refused(400, "Request_BadRequest", "Badly formed token.") from error
    if (token.route, token.kind) != (route, kind):
        raise Refused(400, "Request_BadRequest", "The token does not belong to this request.")
    if kind == "delta" and call.now.timestamp() - token.issued > DELTA_LIFETIME.total_seconds():
        raise Refused(400, "syncStateNotFound", "The sync state generation is not found; the token has expired.")
    if token.sequence > call.tenant.sequence:
        raise resync(call, token)
    return token


def _whole(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= 99_999:
        raise Refused(400, "Request_BadRequest", f"Invalid page size specified: '{text[:20]}'.")
    return int(text)


def expired(call: Call, token: Continuation) -> Refused:
    message = "The specified page token value has expired and can no longer be included in your request."
    return Refused(400, "Directory_ExpiredPageToken", message)


def resync(call: Call, token: Continuation) -> Refused:
    """410 with the address that starts the round again: the same query, its delta token empty."""
    select = f"&$select={','.join(token.select)}" if token.select else ""
    location = f"{call.origin}/{call.version}/{call.path}?$deltatoken={select}"
    return Refused(410, "resyncRequired", "Resync required: the delta token is too old.", {"Location": location})


DOOMS = {"expired-page-token": expired, "gone": resync}
DOOMED_BY = {"expired-page-token": "$skiptoken", "gone": "$deltatoken"}
"""The query option without which a route has no such doom."""


def page_size(query: Query, default: int, most: int) -> int:
    """The size asked for. Refuses one beyond `most`, as Graph does."""
    if query.top is not None and query.top > most:
        message = f"Invalid page size specified: '{query.top}'. Must be between 1 and {most} inclusive."
        raise Refused(400, "Request_BadRequest", message)
    return query.top or default


def is_empty_page(tenant: Tenant, page: int) -> bool:
    every = int(tenant.settings.get("empty_pages", 0))
    return every > 0 and page % every == every - 1


def cut_page(tenant: Tenant, ids: Sequence[str], token: Continuation | None, size: int) -> tuple[Sequence[str], bool]:
    """The ids of the page after `token`, and whether more follow. `ids` is sorted."""
    start = bisect_right(ids, token.after) if token is not None and token.after else 0
    end = start + size
    replayed = int(tenant.settings.get("replayed_rows", 0))
    return ids[max(0, start - replayed) : end], end < len(ids)


def link(call: Call, token: Continuation) -> str:
    option = "$skiptoken" if token.kind == "skip" else "$deltatoken"
    return f"{call.origin}/{call.version}/{call.path}?{option}={seal(call.tenant, token)}"


def collection(call: Call, context: str, rows: Sequence[bytes], annotations: Mapping[str, object]) -> Answer:
    """A page: its context and annotations (next link, delta link, count), then the rows as they are."""
    head = encode({"@odata.context": f"{call.origin}/{call.version}/$metadata#{context}", **annotations})
    return Answer(200, head[:-1] + b',"value":[' + b",".join(rows) + b"]}")
