"""Ordered reading of everything that is appended, by polling: SQLite has nothing else, and a database that announces
appends may go quiet."""

from __future__ import annotations

from domain.events import Recorded
from eventstore.store import EventStore

PAGE = 500


class Follower:
    """Remembers the position up to which it has read."""

    def __init__(self, store: EventStore, after: int = 0, limit: int = PAGE) -> None:
        self._store = store
        self._limit = limit
        self.position = after

    def poll(self) -> tuple[Recorded, ...]:
        """The next events, at most a page of them; empty when there are none now."""
        page = self._store.follow(self.position, self._limit)
        if page:
            self.position = page[-1].position
        return page
