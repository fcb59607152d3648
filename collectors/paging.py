"""Following links: what lists of Graph and of Exchange have in common."""

from __future__ import annotations

from abc import abstractmethod

import msgspec

from collectors.asking import AskingReader
from collectors.dataset import Dataset
from collectors.pages import Page, is_own, own_link, read_page, rows_of, telling
from collectors.reader import MOST_PAGES, Place, Response, begin_again, fewer_than_announced, shortened
from collectors.verdicts import RESTARTED, service_error, verdict
from collectors.work import Assignment
from domain.errors import ProtocolViolation
from domain.events import Mode


class PagedReader(AskingReader):
    """Reads page after page of one list. A dialect says what to ask (`request`) and what a last page means (`finish`).

    A link is followed once and only to `origin`; whatever cannot be a page is asked for again a few times and then
    ends the collection as truncated.
    """

    def __init__(self, dataset: Dataset, assignment: Assignment, origin: str) -> None:
        super().__init__(dataset, assignment)
        self.origin = origin
        self._followed = {hash(self.place.link)} if self.place.link else set()
        """Hashes: there may be many links, and long ones."""
        if self.place.link and not is_own(self.place.link, origin):
            self.end = begin_again(assignment, "cursor-of-another-cloud", assignment.mode)

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
        self.move(place)
        return rows

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
        """A link that the service no longer takes means to begin again."""
        found = verdict(self.dataset.workload, status, service_error(body))
        if found in RESTARTED and (self.place.link or self.assignment.since):
            self.end = begin_again(self.assignment, RESTARTED[found], self.restart_mode(found))
        else:
            super().refuse(status, body)

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
