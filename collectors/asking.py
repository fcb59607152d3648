"""Asking again while an answer is in doubt: what readers of one list, report or cmdlet have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from collectors.dataset import Dataset
from collectors.reader import MOST_ATTEMPTS, Place, Request, Response, back_off, read_cursor, shortened, write_cursor
from collectors.verdicts import end_of, service_error, token_refused, verdict
from collectors.work import Assignment, Complete, End, NotPossible, Truncated


class AskingReader(ABC):
    """A dialect says what to ask (`request`) and takes the answer (`receive`). It goes on (`move`), or the answer was a
    refusal (`refuse`) or no answer at all (`doubt`)."""

    def __init__(self, dataset: Dataset, assignment: Assignment) -> None:
        self.dataset = dataset
        self.assignment = assignment
        self.place = read_cursor(assignment.cursor)
        self.end: End | None = self.place.end
        self._attempts = 0
        self._refused_tokens = 0

    @property
    def cursor(self) -> str | None:
        return write_cursor(self.place)

    def next_request(self) -> Request | None:
        if self.end is not None:
            return None
        request = self.request(self.place)
        return msgspec.structs.replace(request, wait=back_off(self._attempts)) if self._attempts else request

    @abstractmethod
    def request(self, place: Place) -> Request:
        """What to ask there."""

    @abstractmethod
    def receive(self, response: Response) -> list[bytes]:
        """See `collectors.reader.Reader`."""

    def move(self, place: Place) -> None:
        """Go on there, or end with it."""
        self.place, self.end = place, place.end
        self._attempts = self._refused_tokens = 0

    def conclude(self, end: Complete | Truncated | NotPossible) -> None:
        self.move(msgspec.structs.replace(self.place, end=end))

    def refuse(self, status: int, body: bytes | msgspec.Raw) -> None:
        """Take a refusal. Raises `TokenExpired` the first time that it is the token which is refused."""
        error = service_error(body)
        found = verdict(self.dataset.workload, status, error)
        if found == "token-expired":
            self._refused_tokens += 1
            self.end = token_refused(self.dataset.workload, self._refused_tokens, error)
        else:
            self.end = end_of(self.dataset, found, status, error)

    def doubt(self, why: str, reason: str = "protocol") -> None:
        """Ask the same again, or end as truncated after enough attempts."""
        self._attempts += 1
        if self._attempts >= MOST_ATTEMPTS:
            self.end = Truncated(reason, shortened(why))
