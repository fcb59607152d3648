"""Readers of Microsoft Graph: lists, delta queries and logs by time windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

import msgspec

from collectors.dataset import Dataset
from collectors.pages import Page, is_own, own_link
from collectors.paging import PagedReader
from collectors.reader import MOST_RESTARTS, Place, Request, Response, begin_again
from collectors.verdicts import service_error, verdict
from collectors.work import Assignment, Complete
from domain.errors import ProtocolViolation
from domain.events import Mode

HEADERS = {"Accept": "application/json", "x-ms-throttle-priority": "Low"}
_QUERY_SAFE = "$,'()/:=."
DRIFT_SHARE, DRIFT_ROWS, MOST_DRIFT_SHARE = 0.01, 10, 0.1
"""A count that was asked for apart may be off by one percent and ten rows, never by more than ten percent: it comes
from an index that lags behind, and the directory changes while it is read."""


def ask(dataset: Dataset, assignment: Assignment, url: str, headers: dict[str, str] | None = None) -> Request:
    """A GET of this dataset."""
    return Request(
        method="GET",
        url=url,
        headers={**HEADERS, **(headers or {})},
        workload="graph",
        tenant=assignment.tenant,
        bucket=dataset.throttled_by,
        cost=dataset.cost,
    )


def first_url(dataset: Dataset, origin: str, **options: str) -> str:
    """The dataset's path with its `$select`, its own query and `options`, names without their `$`."""
    query = dict(dataset.query)
    if dataset.select:
        query["$select"] = ",".join(dataset.select)
    query.update({f"${name}": value for name, value in options.items()})
    url = origin + dataset.path
    return f"{url}?{urlencode(query, safe=_QUERY_SAFE, quote_via=quote)}" if query else url


def top_of(dataset: Dataset) -> dict[str, str]:
    """The page size as an option of `first_url`."""
    return {"top": str(dataset.page_size)} if dataset.page_size else {}


class GraphList(PagedReader):
    """A list, from its first page to the one without a next link."""

    def __init__(self, dataset: Dataset, assignment: Assignment) -> None:
        super().__init__(dataset, assignment, assignment.cloud.graph)

    def request(self, place: Place) -> Request:
        first = first_url(self.dataset, self.origin, **top_of(self.dataset))
        return ask(self.dataset, self.assignment, place.link or first)

    def finish(self, page: Page, place: Place) -> Place:
        expected_by = None if place.expected is None else "@odata.count"
        return msgspec.structs.replace(place, end=Complete(expected=place.expected, expected_by=expected_by))


class GraphDelta(PagedReader):
    """A delta query: everything (mode `full`) or what changed since the delta link; the last page gives the next one.

    A full round first asks how many rows there are, where the dataset says how (`count`); with too few of them it ends
    truncated, so that nothing is concluded from the others. `$top` is not allowed in a delta query; the page size goes
    into `Prefer`.
    """

    def __init__(self, dataset: Dataset, assignment: Assignment) -> None:
        super().__init__(dataset, assignment, assignment.cloud.graph)
        self._since = assignment.since if assignment.mode == "delta" else None
        self._counting = bool(dataset.count) and self._since is None and assignment.cursor is None
        if self._since and not is_own(self._since, self.origin):
            self.end = begin_again(assignment, "delta-link-of-another-cloud", "full")

    def request(self, place: Place) -> Request:
        if self._counting:
            headers = {"Accept": "text/plain", "ConsistencyLevel": "eventual"}
            question = ask(self.dataset, self.assignment, self.origin + self.dataset.count, headers)
            return msgspec.structs.replace(question, optional=True)
        size = {"Prefer": f"odata.maxpagesize={self.dataset.page_size}"} if self.dataset.page_size else {}
        url = place.link or self._since or first_url(self.dataset, self.origin)
        return ask(self.dataset, self.assignment, url, size)

    def receive(self, response: Response) -> list[bytes]:
        if not self._counting or response.status == 401:
            return super().receive(response)
        self._counting = False  # a service that does not count is read all the same
        digits = response.body.removeprefix(b"\xef\xbb\xbf").strip()
        if response.status == 200 and digits.isdigit() and len(digits) < 12:
            self.place = msgspec.structs.replace(self.place, expected=int(digits))
        return []

    def finish(self, page: Page, place: Place) -> Place:
        if not page.delta_link:
            raise ProtocolViolation("graph", "a last page without delta link")
        link = own_link(page.delta_link, self.origin, "graph")
        expected_by = None if place.expected is None else f"GET {self.dataset.count}"
        end = Complete(expected=place.expected, expected_by=expected_by, delta_link=link)
        return msgspec.structs.replace(place, end=end)

    def tolerated(self, announced: int) -> int:
        return int(min(announced * DRIFT_SHARE + DRIFT_ROWS, announced * MOST_DRIFT_SHARE))

    def restart_mode(self, found: str) -> Mode:
        """A link that continues this round may be replaced by the round's first; a dead delta link may not."""
        return "full" if found == "resync" or not self.place.link else self.assignment.mode


class GraphWindow(PagedReader):
    """A log, window by window inside [from, until). Rows may come twice; whoever reads them goes by the row key."""

    def __init__(self, dataset: Dataset, assignment: Assignment) -> None:
        super().__init__(dataset, assignment, assignment.cloud.graph)
        if assignment.window is None:
            raise ProtocolViolation("graph", f"a collection of {dataset.name} without a window")
        self._from, self._until = assignment.window
        if self._from >= self._until and self.end is None:
            self.end = Complete(watermark=self._until)

    def request(self, place: Place) -> Request:
        if place.link:
            return ask(self.dataset, self.assignment, place.link)
        start = self._start(place)
        prop = self.dataset.time_property
        window = f"{prop} ge {_wire(start)} and {prop} lt {_wire(self._stop(start))}"
        first = first_url(self.dataset, self.origin, filter=window, **top_of(self.dataset))
        return ask(self.dataset, self.assignment, first)

    def finish(self, page: Page, place: Place) -> Place:
        stop = self._stop(self._start(place))
        if stop >= self._until:
            return msgspec.structs.replace(place, start=stop.isoformat(), end=Complete(watermark=self._until))
        return msgspec.structs.replace(place, start=stop.isoformat(), again=0, rows=0, expected=None)

    def refuse(self, status: int, body: bytes | msgspec.Raw) -> None:
        """An expired page token costs the window at hand, not the ones before it."""
        expired = verdict("graph", status, service_error(body)) == "page-expired"
        if expired and self.place.link and self.place.again < MOST_RESTARTS:
            again = self.place.again + 1
            self.place = msgspec.structs.replace(self.place, link=None, again=again, rows=0, expected=None)
            self._followed.clear()
        else:
            super().refuse(status, body)

    def _start(self, place: Place) -> datetime:
        return datetime.fromisoformat(place.start) if place.start else self._from

    def _stop(self, start: datetime) -> datetime:
        return min(start + timedelta(hours=self.dataset.step_hours), self._until)


def _wire(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
