"""The reader of datasets that are asked item by item, many of them in one `$batch`.

Items are taken in sorted order. The cursor holds the last one taken and those of them that are not done yet, so an
item that was throttled, or has a further page, is neither lost nor read twice. A round without progress is followed
by a longer wait and a smaller batch. An item that is refused is noted and the others are read: then something is
missing. When nothing else is answered, the refusal is of the whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from collectors.dataset import Dataset
from collectors.exchange import command_body, command_headers, command_url
from collectors.graph import HEADERS, first_url, top_of
from collectors.pages import is_own, own_link, read_page, rows_of, sliced, telling
from collectors.reader import (
    Left,
    Refusals,
    Request,
    Response,
    back_off,
    begin_again,
    read_cursor,
    shortened,
    write_cursor,
)
from collectors.throttle import retry_after
from collectors.verdicts import REPEATED, ServiceError, end_of, service_error, token_refused, verdict
from collectors.work import Assignment, Complete, End, NotPossible, Truncated
from domain.errors import ProtocolViolation

MOST_IDLE_ROUNDS = 8
MOST_ITEM_PAGES = 10_000
LONGEST_WAIT = 300.0
MOST_REFUSED_AT_FIRST = 20
"""When so many items are refused before one is answered, the others are not asked for."""


class Dialect(NamedTuple):
    """How one workload words a batch. `question`: the fields of one request of it."""

    origin: str
    batch_url: str
    headers: dict[str, str]
    question: Callable[[Left], dict[str, Any]]


def graph_dialect(dataset: Dataset, assignment: Assignment) -> Dialect:
    version = "/" + dataset.path.split("/")[1]
    base = assignment.cloud.graph + version
    path, mark, query = first_url(dataset, "", **top_of(dataset)).removeprefix(version).partition("?")

    def question(left: Left) -> dict[str, Any]:
        if left.link:
            return {"method": "GET", "url": left.link[len(base) :]}
        return {"method": "GET", "url": path.replace("{item}", quote(left.item, safe="")) + mark + query}

    return Dialect(base, f"{base}/$batch", {**HEADERS, "Content-Type": "application/json"}, question)


def exchange_dialect(dataset: Dataset, assignment: Assignment) -> Dialect:
    origin = assignment.cloud.exchange
    headers = command_headers(dataset, assignment)
    url = command_url(dataset, assignment)

    def question(left: Left) -> dict[str, Any]:
        body = command_body(dataset, **{dataset.item_parameter: left.item})
        return {"method": "POST", "url": left.link or url, "headers": headers, "body": body}

    batch_headers = {**headers, "Prefer": f"{headers['Prefer']};odata.continue-on-error"}
    return Dialect(origin, f"{origin}/adminapi/beta/{assignment.tenant}/$batch", batch_headers, question)


DIALECTS: dict[str, Callable[[Dataset, Assignment], Dialect]] = {"graph": graph_dialect, "exchange": exchange_dialect}


class _Answer(msgspec.Struct):
    id: str
    status: int
    headers: dict[str, Any] | None = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Answers(msgspec.Struct):
    responses: list[_Answer]


_ANSWERS = msgspec.json.Decoder(_Answers)


class _Sorted(NamedTuple):
    """What a batch's answers amount to: rows, items to go on with, items refused, and how long the service asks to
    wait."""

    rows: list[bytes]
    more: list[Left]
    failed: list[Left]
    refused: list[tuple[str, NotPossible | Truncated]]
    done: int
    gone: int
    wait: float | None
    why: str | None
    warned: str | None


class PerItemReader:
    """Rows carry their item as property `_item`. `items` may come in any order and repeat."""

    def __init__(self, dataset: Dataset, assignment: Assignment, items: Iterable[str]) -> None:
        self.dataset = dataset
        self.assignment = assignment
        self.dialect = DIALECTS[dataset.workload](dataset, assignment)
        self.items = sorted(set(items))
        self.place = read_cursor(assignment.cursor)
        self.end: End | None = self.place.end
        self._size = dataset.items_per_request
        self._wait = 0.0
        self._idle = 0
        self._refused_tokens = 0
        if not self.items and self.end is None:
            self.end = Complete()
        if not all(is_own(left.link, self.dialect.origin) for left in self.place.left if left.link):
            self.end = begin_again(assignment, "cursor-of-another-cloud", assignment.mode)

    @property
    def cursor(self) -> str | None:
        return write_cursor(self.place)

    def next_request(self) -> Request | None:
        if self.end is not None:
            return None
        chosen = self._chosen()
        questions = [{"id": str(number), **self.dialect.question(left)} for number, left in enumerate(chosen, 1)]
        return Request(
            method="POST",
            url=self.dialect.batch_url,
            headers=self.dialect.headers,
            body=msgspec.json.encode({"requests": questions}),
            workload=self.dataset.workload,
            tenant=self.assignment.tenant,
            bucket=self.dataset.throttled_by,
            cost=self.dataset.cost * len(chosen),
            wait=self._wait,
        )

    def receive(self, response: Response) -> list[bytes]:
        chosen = self._chosen()
        try:
            if response.status != 200:
                self._refuse(response.status, response.body)
                return []
            found = self._sort(chosen, self._answers(response.body, len(chosen)))
        except ProtocolViolation as violation:
            self._idled(None, "protocol", str(violation))
            return []
        if self.end is not None:
            return []
        self._refused_tokens = 0
        self._move(chosen, found)
        return found.rows

    def _chosen(self) -> list[Left]:
        """What the next batch asks: items left over first, then new ones."""
        old = list(self.place.left[: self._size])
        start = bisect_right(self.items, self.place.item) if self.place.item is not None else 0
        return old + [Left(item) for item in self.items[start : start + self._size - len(old)]]

    def _answers(self, body: bytes, asked: int) -> dict[int, _Answer]:
        answers = sliced(body, _ANSWERS, self.dataset.workload, "batch answer").responses
        numbers = {str(number): number for number in range(1, asked + 1)}
        numbered = {numbers[answer.id]: answer for answer in answers if answer.id in numbers}
        if len(numbered) != len(answers):
            raise ProtocolViolation(self.dataset.workload, "answers to what was not in the batch")
        return numbered

    def _sort(self, chosen: list[Left], answers: dict[int, _Answer]) -> _Sorted:
        """Look at every answer; an item without one counts as failed. Ends the collection where it cannot go on."""
        rows: list[bytes] = []
        more: list[Left] = []
        failed: list[Left] = []
        refused: list[tuple[str, NotPossible | Truncated]] = []
        waits: list[float] = []
        why: str | None = None
        warned = self.place.warned
        done = gone = 0
        for number, left in enumerate(chosen, 1):
            answer = answers.get(number)
            if answer is not None and answer.status == 200:
                try:
                    found, link, warning = self._page(left, answer.body)
                except ProtocolViolation:
                    failed.append(left)
                    why = "protocol"
                    continue
                rows += found
                done += 1
                warned = warning or warned
                if link:
                    more.append(Left(left.item, link))
                continue
            error = service_error(answer.body if answer else b"")
            meant = verdict(self.dataset.workload, answer.status, error) if answer else "unavailable"
            if answer is None or meant in REPEATED:
                failed.append(left)
                why = meant
                after = retry_after({k.lower(): str(v) for k, v in ((answer and answer.headers) or {}).items()})
                waits += [] if after is None else [after]
            elif meant == "gone":
                gone += 1
            elif meant == "page-expired" and left.link:
                self.end = begin_again(self.assignment, "page-token-expired", self.assignment.mode)
            elif meant == "token-expired":
                self._token_refused(error)
            else:
                refused.append((left.item, end_of(self.dataset, meant, answer.status, error)))
            if self.end is not None:
                break
        return _Sorted(rows, more, failed, refused, done, gone, max(waits, default=None), why, warned)

    def _page(self, left: Left, body: msgspec.Raw) -> tuple[list[bytes], str | None, str | None]:
        """The rows of one item, the link to more of them, and what the service warned of."""
        page = read_page(body, self.dataset.workload)
        if page.error is not msgspec.UNSET:
            raise ProtocolViolation(self.dataset.workload, "an error inside a 200")
        link = own_link(page.next_link, self.dialect.origin, self.dataset.workload) if page.next_link else None
        if link and link == left.link:
            raise ProtocolViolation(self.dataset.workload, "a link that was followed already")
        warning = telling(page)
        rows = [tagged(row, left.item) for row in rows_of(page, self.dataset.workload)]
        return rows, link, shortened(warning) if warning else None

    def _move(self, chosen: list[Left], found: _Sorted) -> None:
        """Take the answers into the place: nothing else changes it."""
        taken = [left.item for left in chosen[len(self.place.left[: self._size]) :]]
        left = (*found.failed, *found.more, *self.place.left[self._size :])
        item = max(taken) if taken else self.place.item
        pages = self.place.pages + len(found.more)
        self.place = msgspec.structs.replace(
            self.place,
            item=item,
            left=left,
            pages=pages,
            warned=found.warned,
            answered=self.place.answered + found.done,
            refused=_noted(self.place.refused, found.refused),
        )
        if pages > MOST_ITEM_PAGES + len(self.items):
            self.end = Truncated("protocol", "More further pages than there can be.")
        elif (end := self._ended(last=not left and (item is None or item >= self.items[-1]))) is not None:
            self.end = end
            self.place = msgspec.structs.replace(self.place, end=end)
        progress = bool(found.done or found.gone or found.refused)
        if progress:
            self._idle, self._wait = 0, 0.0
            self._size = min(self.dataset.items_per_request, self._size + 2)
        if found.failed:
            self._idled(found.wait, found.why or "unavailable", "It goes on failing.", progress=progress)

    def _ended(self, *, last: bool) -> Complete | Truncated | NotPossible | None:
        """After the last item, or when enough were refused. Items that were listed just now cannot all be gone: then
        the question was wrong."""
        refused = self.place.refused
        if refused and not self.place.answered and (last or refused.number >= MOST_REFUSED_AT_FIRST):
            return refused.meaning
        if not last:
            return None
        if refused:
            said = f"{refused.number} of {len(self.items)} items were refused, the first of them {refused.item}: "
            return Truncated("items-refused", shortened(said + refused.meaning.detail))
        if self.place.warned:
            return Truncated("warned", f"Exchange warned: {self.place.warned}")
        if not self.place.answered:
            return Truncated("refused", f"The service knows none of the {len(self.items)} items.")
        return Complete()

    def _idled(self, wait: float | None, reason: str, why: str, *, progress: bool = False) -> None:
        """Something failed: ask for less after a while, or end after many rounds in which nothing else succeeded."""
        self._idle += 0 if progress else 1
        self._wait = min(LONGEST_WAIT, wait if wait is not None else back_off(max(1, self._idle)))
        self._size = max(1, self._size // 2)
        if self._idle >= MOST_IDLE_ROUNDS:
            self.end = Truncated(reason, f"{MOST_IDLE_ROUNDS} rounds of a batch brought nothing. {shortened(why)}")

    def _refuse(self, status: int, body: bytes | msgspec.Raw) -> None:
        error = service_error(body)
        found = verdict(self.dataset.workload, status, error)
        if found == "token-expired":
            self._token_refused(error)
        else:
            self.end = end_of(self.dataset, found, status, error)

    def _token_refused(self, error: ServiceError) -> None:
        self._refused_tokens += 1
        self.end = token_refused(self.dataset.workload, self._refused_tokens, error)


def _noted(before: Refusals | None, refused: list[tuple[str, NotPossible | Truncated]]) -> Refusals | None:
    if not refused:
        return before
    item, meaning = (before.item, before.meaning) if before else refused[0]
    return Refusals((before.number if before else 0) + len(refused), item, meaning)


def tagged(row: bytes, item: str) -> bytes:
    """The row with its item as first property."""
    start = b'{"_item":' + msgspec.json.encode(item)
    rest = row[1:].lstrip()
    return start + rest if rest == b"}" else start + b"," + rest
