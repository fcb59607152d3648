"""One page of an OData answer: sliced, checked, not decoded. Every doubt raises `ProtocolViolation`."""

from __future__ import annotations

import re
from itertools import chain
from typing import Any, TypeVar

import msgspec

from collectors.dataset import Workload
from domain.errors import ProtocolViolation

_LINK_CHARACTERS = re.compile(r"[!-~]{1,16384}")

EXPECTED_WARNINGS = ("hasn't logged on to mailbox", "has not logged on to mailbox")
"""Of a mailbox that nobody has opened yet there are no statistics: nothing is missing."""


class Page(msgspec.Struct):
    """`error` stands where an error arrived with status 200; `errors` beside rows, what they are made of is documented
    nowhere. Row order and bytes are the service's own."""

    value: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    next_link: str | None = msgspec.field(default=None, name="@odata.nextLink")
    delta_link: str | None = msgspec.field(default=None, name="@odata.deltaLink")
    count: int | None = msgspec.field(default=None, name="@odata.count")
    warnings: list[str] | None = msgspec.field(default=None, name="@adminapi.warnings")
    errors: list[Any] | None = msgspec.field(default=None, name="@adminapi.errors")
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_PAGES = msgspec.json.Decoder(Page)
_T = TypeVar("_T")


def sliced(body: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[_T], workload: Workload, what: str) -> _T:
    """The body as `decoder` has it, of which all is JSON in UTF-8. `msgspec.Raw` is a slice of one that was."""
    try:
        if not isinstance(body, msgspec.Raw):
            body.decode()  # slicing does not look at the bytes of strings
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise ProtocolViolation(workload, f"a {what} that is not what it should be ({error})") from error
    except UnicodeDecodeError as error:
        raise ProtocolViolation(workload, f"a {what} that is not UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise ProtocolViolation(workload, f"a {what} that is nested too deeply") from None


def read_page(body: bytes | msgspec.Raw, workload: Workload) -> Page:
    """An error inside a 200 is a page too; anything else without rows raises `ProtocolViolation`."""
    page = sliced(body, _PAGES, workload, "page")
    if page.value is msgspec.UNSET and page.error is msgspec.UNSET:
        raise ProtocolViolation(workload, "a page without rows (no `value`)")
    return page


def rows_of(page: Page, workload: Workload) -> list[bytes]:
    """The rows as they came, without newlines. Raises `ProtocolViolation` when one is no object."""
    rows = [] if page.value is msgspec.UNSET else list(map(bytes, page.value))
    for index, row in enumerate(rows):
        if not row.startswith(b"{"):
            raise ProtocolViolation(workload, f"row {index} of a page is no object")
    if _has_newline(b"".join(rows)):  # one look at a page is cheaper than one at each row
        return [msgspec.json.format(row, indent=-1) if _has_newline(row) else row for row in rows]
    return rows


def _has_newline(text: bytes) -> bool:
    return b"\n" in text or b"\r" in text


def is_own(link: str, origin: str) -> bool:
    """Whether a link leads to `origin` itself, in whatever way a client reads it."""
    start = origin.rstrip("/") + "/"
    return link[: len(start)].lower() == start.lower() and bool(_LINK_CHARACTERS.fullmatch(link)) and "\\" not in link


def own_link(link: str, origin: str, workload: Workload) -> str:
    """The link, if it leads to `origin` itself: the access token goes wherever a link leads."""
    if not is_own(link, origin):
        raise ProtocolViolation(workload, "a link that leads to another host")
    return link


def telling(page: Page) -> str | None:
    """The first error or warning of the page that says something is missing."""
    warnings = (text for text in page.warnings or () if not any(known in text.lower() for known in EXPECTED_WARNINGS))
    return next(chain(map(str, page.errors or ()), warnings), None)
