"""One stream as its writer holds it: the folded state, its version, and appends that expect that version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Generic, TypeVar, cast

from domain.errors import VersionConflict
from domain.events import AnyEvent, Recorded
from domain.ids import Stream
from eventstore.store import EventStore

S = TypeVar("S")
E = TypeVar("E")

ATTEMPTS = 5
"""How often a decision is made anew when somebody else appended first."""


class Held(Generic[S, E]):
    """The state of a stream and its version. Raises what the store and the decision raise."""

    def __init__(self, store: EventStore, stream: Stream, evolve: Callable[[S, E], S], initial: S) -> None:
        self._store = store
        self._evolve = evolve
        self.stream = stream
        self.version = 0
        self.state = initial
        self.refresh()

    def refresh(self) -> None:
        """Reads what others appended."""
        self._take(self._store.read(self.stream, self.version))

    def append(
        self, decide: Callable[[S], Sequence[E]], *, at: datetime, actor: str, cause: str
    ) -> tuple[Recorded, ...]:
        """Decides on the current state and appends; a decision for no event appends nothing.

        A conflict is raised as `VersionConflict`, after reading what came first: the caller knows whether to go on.
        """
        events = decide(self.state)
        if not events:
            return ()
        try:
            recorded = self._store.append(
                self.stream, self.version, cast("Sequence[AnyEvent]", events), at=at, actor=actor, cause=cause
            )
        except VersionConflict:
            self.refresh()
            raise
        self._take(recorded)
        return recorded

    def decide(
        self, decision: Callable[[S], Sequence[E]], *, at: datetime, actor: str, cause: str
    ) -> tuple[Recorded, ...]:
        """`append`, decided anew on the newer state when somebody else was first."""
        for _ in range(ATTEMPTS - 1):
            try:
                return self.append(decision, at=at, actor=actor, cause=cause)
            except VersionConflict:
                continue
        return self.append(decision, at=at, actor=actor, cause=cause)

    def _take(self, recorded: Sequence[Recorded]) -> None:
        for one in recorded:
            self.state = self._evolve(self.state, cast("E", one.event))
            self.version = one.version
