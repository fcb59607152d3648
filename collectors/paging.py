"""Following links: what lists of Graph and of Exchange have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from collectors.dataset import Dataset
from collectors.pages import Page, is_own, own_link, read_page, rows_of, telling
from collectors.reader import (
    MOST_ATTEMPTS,
    MOST_PAGES,
    Place,
    Request,
    Response,
    back_off,
    begin_again,
    fewer_than_announced,
    read_cursor,
    shortened,
    write_cursor,
)
from collectors.verdicts import RESTARTED, end_of, service_error, token_refused, verdict
from collectors.work import Assignment, End, Truncated
from domain.errors import ProtocolViolation
from domain.events import Mode


class PagedReader(ABC):
    """Reads page after page of one list. A dialect says what to ask (`request`) and what a last page means (`finish`).

    A link is followed once and only to `origin`; whatever cannot be a page is asked for again a few times and then
    ends the collection as truncated.
    """

    def __init__(self, dataset: Dataset, assignment: Assignment, origin: str) -> None:
        self.dataset = dataset
        self.assignment = assignment
        self.origin = origin
        self.place = read_cursor(assignment.cursor)
        self.end: End | None = self.place.end
        self._followed = {hash(self.place.link)} if self.place.link else set()
        """Hashes: there may be many links, and long ones."""
        self._attempts = 0
        self._refused_tokens = 0
        if self.place.link and not is_own(self.place.link, origin):
            self.end = begin_again(assignment, "cursor-of-another-cloud", assignment.mode)

    @property
    def cursor(self) -> str | None:
        return write_cursor(self.place)

    def next_request(self) -> Request | None:
        if self.end is not None:
            return None
        request = self.request(self.place)
        return msgspec.structs.replace(request, wait=back_off(self._attempts)) if self._attempts else request

    def receive(self, response: Response) -> list[bytes]:
        if response.status != 200:
            self.refuse(response.status, response.body)
            return []
        try:
            page = read_page(response.body, self.dataset.workload)
            if page.error is not msgspec.UNSET:
                self._error_inside(response.body)
                return []
            rows = rows_of(page, self.dataset.workload)
            place = self._after(page, len(rows))
        except ProtocolViolation as violation:
            self.doubt(str(violation))
            return []
        if place.link:
            self._followed.add(hash(place.link))
        self.place, self.end = place, place.end
        self._attempts = self._refused_tokens = 0
        return rows

    @abstractmethod
    def request(self, place: Place) -> Request:
        """What to ask there."""

    @abstractmethod
    def finish(self, page: Page, place: Place) -> Place:
        """The place after the last page of a list. Raises `ProtocolViolation` if it cannot be the last."""

    def tolerated(self, announced: int) -> int:
        """How many of the announced rows may lack at the end of a list: none, when it announced them itself."""
        return 0

    def restart_mode(self, found: str) -> Mode:
        """How to begin again after verdict `resync` or `page-expired`."""
        return self.assignment.mode

    def refuse(self, status: int, body: bytes | msgspec.Raw) -> None:
        """Take an answer that is no page. Raises `TokenExpired` the first time a token is refused."""
        error = service_error(body)
        found = verdict(self.dataset.workload, status, error)
        if found == "token-expired":
            self._refused_tokens += 1
            self.end = token_refused(self.dataset.workload, self._refused_tokens, error)
        elif found in RESTARTED and (self.place.link or self.assignment.since):
            self.end = begin_again(self.assignment, RESTARTED[found], self.restart_mode(found))
        else:
            self.end = end_of(self.dataset, found, status, error)

    def doubt(self, why: str, reason: str = "protocol") -> None:
        """Ask the same again, or end as truncated after enough attempts."""
        self._attempts += 1
        if self._attempts >= MOST_ATTEMPTS:
            self.end = Truncated(reason, shortened(why))

    def _error_inside(self, body: bytes) -> None:
        """An error that arrived with status 200 means the same as with its own; an unknown one may pass."""
        error = service_error(body)
        found = verdict(self.dataset.workload, 400, error)
        if found in RESTARTED:
            self.refuse(400, body)
        else:
            self.doubt(f"An error inside a 200: {error.shown}", "unavailable")

    def _after(self, page: Page, rows: int) -> Place:
        warning = telling(page)
        place = msgspec.structs.replace(
            self.place,
            pages=self.place.pages + 1,
            rows=self.place.rows + rows,
            expected=page.count if page.count is not None else self.place.expected,
            warned=shortened(warning) if warning else self.place.warned,
        )
        if not page.next_link:
            last = self.finish(page, msgspec.structs.replace(place, link=None))
            lacking = fewer_than_announced(place.rows, place.expected, self.tolerated(place.expected or 0))
            return msgspec.structs.replace(last, end=lacking) if lacking else last
        link = own_link(page.next_link, self.origin, self.dataset.workload)
        if hash(link) in self._followed:
            raise ProtocolViolation(self.dataset.workload, "a link that was followed already")
        if place.pages >= MOST_PAGES:
            raise ProtocolViolation(self.dataset.workload, f"more than {MOST_PAGES} pages")
        return msgspec.structs.replace(place, link=link)
