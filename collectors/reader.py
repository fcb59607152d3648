"""Protocol code without I/O: a reader says what to ask next and takes the answer.

    while request := reader.next_request():
        await store(reader.receive(await send(request)))
    return reader.end

A reader has no clock and no connection. Between a `receive` and the next `next_request` its `cursor` names the place
exactly: a reader made with it goes on there. Asking `next_request` twice gives the same request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from collectors.dataset import Workload
from collectors.work import Assignment, Complete, End, NotPossible, Restart, Truncated
from domain.events import Mode
from domain.ids import TenantId

MOST_RESTARTS = 3
MOST_ATTEMPTS = 4
"""How often one question is asked whose answer is no answer (not JSON, no rows, an error inside a 200)."""
MOST_PAGES = 200_000
LONGEST_DETAIL = 300


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `cost` is charged to the tenant's `bucket`; `wait` seconds pass before it is sent. A reader goes on
    without the answer to an `optional` one: give it `UNANSWERED`.

    Without `authorized` it is sent without the access token. For workload `exchange-server` the body is
    `{"cmdlet": ..., "parameters": {...}, "select": [...]}` and method and URL are only for show.
    """

    method: Literal["GET", "POST"]
    url: str
    headers: dict[str, str]
    workload: Workload
    tenant: TenantId
    bucket: str
    cost: float
    body: bytes = b""
    authorized: bool = True
    optional: bool = False
    wait: float = 0.0


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """`headers` have lower-case names. `body` is decompressed, and empty when an error's body cannot be."""

    status: int
    headers: Mapping[str, str]
    body: bytes


UNANSWERED = Response(status=503, headers={}, body=b"")
"""In the place of an answer that did not come."""


class Reader(Protocol):
    """`end` is None until there is nothing more to ask. `cursor` is None at the start."""

    @property
    def end(self) -> End | None: ...

    @property
    def cursor(self) -> str | None: ...

    def next_request(self) -> Request | None: ...

    def receive(self, response: Response) -> list[bytes]:
        """The rows of the answer: JSON objects without newlines. Raises `TokenExpired`; asks the same again then."""
        ...


class Left(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item still to be read, from `link` on if some of it was read already."""

    item: str
    link: str | None = None


class Refusals(msgspec.Struct, frozen=True):
    """Items that the service refused to answer about: how many, the first one, and what its refusal means for it."""

    number: int
    item: str
    meaning: NotPossible | Truncated


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a cursor says. `link`: the next page. `start`: of the window being read. `item`: the last one taken.
    `left`: items taken but not done. `answered`: how many items were not gone or refused. `rows` and `expected`: read
    so far and announced, of the list or window being read.

    `again`: how often this window was begun anew. `warned`: what the service warned of so far. `end`: nothing follows.
    """

    link: str | None = None
    start: str | None = None
    pages: int = 0
    rows: int = 0
    expected: int | None = None
    again: int = 0
    warned: str | None = None
    item: str | None = None
    left: tuple[Left, ...] = ()
    answered: int = 0
    refused: Refusals | None = None
    end: Complete | Truncated | NotPossible | None = None


START = Place()


def read_cursor(cursor: str | None) -> Place:
    """Cursors come from our own events: one that is no cursor raises `msgspec.ValidationError`."""
    return msgspec.json.decode(cursor, type=Place) if cursor else START


def write_cursor(place: Place) -> str | None:
    return None if place == START else msgspec.json.encode(place).decode()


def begin_again(assignment: Assignment, reason: str, mode: Mode) -> Restart | Truncated:
    """A restart, or the end when there were enough of them."""
    if assignment.restarts < MOST_RESTARTS:
        return Restart(reason, mode)
    return Truncated("restarted-too-often", f"It began again {MOST_RESTARTS} times; the last reason was {reason}.")


def fewer_than_announced(rows: int, announced: int | None, tolerated: int = 0) -> Truncated | None:
    """How a list ends that is shorter than the service said it is."""
    if announced is None or rows + tolerated >= announced:
        return None
    detail = f"The service announced {announced} rows and gave {rows}. None that is missing is taken for deleted."
    return Truncated("fewer-than-announced", detail)


def back_off(attempts: int) -> float:
    """Seconds before the next attempt: 0, 1, 2, 4... at most 60."""
    return 0.0 if attempts == 0 else min(60.0, 2.0 ** (attempts - 1))


def shortened(text: str) -> str:
    """One line of bounded length for a `detail`."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_DETAIL else line[: LONGEST_DETAIL - 3] + "..."
