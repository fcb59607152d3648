"""JSON batching: up to twenty requests in one, answered in any order, each with its own status and headers.

Source: learn.microsoft.com/graph/json-batching. The answers come in an order that depends on the ids only, which is
not the order of the questions; the setting `batch_in_order` keeps that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from simulator.graph_wire import JSON, Answer, Call, Refused, encode

MOST = 20
BODY_LIMIT = 4 * 1024 * 1024


class Item(msgspec.Struct, frozen=True):
    """One request. `url` is relative to the version."""

    id: str
    method: str
    url: str
    headers: dict[str, str] = {}
    depends_on: tuple[str, ...] = msgspec.field(default=(), name="dependsOn")
    body: Any = None


class Batch(msgspec.Struct, frozen=True):
    requests: list[Item]


def read(body: bytes | None) -> list[Item]:
    """The items of a batch. Refuses one that is no batch, is too large (None), or names an id twice."""
    if body is None:
        raise Refused(413, "Request_BadRequest", "The batch is too large.")
    try:
        items = msgspec.json.decode(body, type=Batch).requests
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "BadRequest", f"Invalid batch payload format: {error}") from error
    if not items:
        raise Refused(400, "BadRequest", "A batch needs at least one request.")
    if len(items) > MOST:
        raise Refused(400, "BadRequest", f"Number of batch requests exceeds the limit of {MOST}.")
    if len({item.id.lower() for item in items}) != len(items):
        raise Refused(400, "BadRequest", "Every request in a batch needs an id of its own.")
    known: set[str] = set()
    for item in items:
        if not is_address(item.url):
            raise Refused(400, "BadRequest", f"Request {item.id[:40]} has no valid url.")
        if not known.issuperset(item.depends_on):
            raise Refused(400, "BadRequest", f"Request {item.id[:40]} depends on one that does not come before it.")
        known.add(item.id)
    return items


def is_address(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


async def perform(call: Call, items: list[Item], ask: Callable[[Call, str], Awaitable[Answer]]) -> Answer:
    """Ask each item as a call of its own; `ask` takes the call and its method and never raises `Refused`."""
    status: dict[str, int] = {}
    answers: list[tuple[str, bytes]] = []
    for item in items:
        if any(status[other] >= 400 for other in item.depends_on):
            answer = Answer(424, encode({"error": {"code": "FailedDependency", "message": "A request failed."}}))
        else:
            answer = await ask(_call(call, item), item.method.upper())
        status[item.id] = answer.status
        answers.append((item.id, _response(item.id, answer)))
    if not call.tenant.settings.get("batch_in_order", False):
        answers.sort(key=lambda one: hashlib.blake2b(one[0].encode(), digest_size=8).digest())
    return Answer(200, b'{"responses":[' + b",".join(text for _, text in answers) + b"]}", {}, "application/json")


def _call(call: Call, item: Item) -> Call:
    address = urlsplit(item.url)
    if address.scheme or address.netloc:
        path, options = "", {}
    else:
        path, options = unquote(address.path).strip("/"), dict(parse_qsl(address.query, keep_blank_values=True))
    return Call(
        tenant=call.tenant,
        claims=call.claims,
        origin=call.origin,
        version=call.version,
        path=path,
        options=options,
        headers={name.lower(): value for name, value in item.headers.items()},
        now=call.now,
        views=call.views,
    )


def _response(item_id: str, answer: Answer) -> bytes:
    """An answer inside the batch: JSON as it is, anything else as a string."""
    headers: Mapping[str, str] = {**answer.headers, "Content-Type": answer.media_type}
    head = encode({"id": item_id, "status": answer.status, "headers": headers})
    is_json = answer.media_type == JSON or answer.media_type.startswith("application/json")
    if not answer.body:
        return head
    body = answer.body if is_json and answer.body.strip(b"\0") else encode(answer.body.decode("latin-1"))
    return head[:-1] + b',"body":' + body + b"}"
