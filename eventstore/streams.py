"""Streams as their writers hold them: the folded state, its version, and appends that expect that version."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from threading import Lock
from typing import Any, Generic, TypeVar, cast

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

    def __init__(
        self, store: EventStore, stream: Stream, evolve: Callable[[S, E], S], initial: S, version: int | None = None
    ) -> None:
        """`initial`: of a stream without events; with `version` the state at that version, and nothing is read yet."""
        self._store = store
        self._evolve = evolve
        self.stream = stream
        self.version = version or 0
        self.state = initial
        if version is None:
            self.refresh()

    def refresh(self) -> None:
        """Reads what others appended."""
        self.take(self._store.read(self.stream, self.version))

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
        self.take(recorded)
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

    def take(self, recorded: Sequence[Recorded]) -> None:
        """The events that follow."""
        for one in recorded:
            self.state = self._evolve(self.state, cast("E", one.event))
            self.version = one.version


class Snapshots:
    """The states of the streams that were used last: of a long one only what came since is read. Any thread."""

    def __init__(self, store: EventStore, most: int = 2_048) -> None:
        self._store = store
        self._most = most
        self._states: OrderedDict[Stream, tuple[int, Any]] = OrderedDict()
        self._lock = Lock()

    def held(self, stream: Stream, evolve: Callable[[S, E], S], initial: S) -> Held[S, E]:
        """As it was when it was kept; `refresh` it."""
        with self._lock:
            version, state = self._states.get(stream, (0, initial))
        return Held(self._store, stream, evolve, state, version)

    def refresh(self, *held: Held[Any, Any]) -> None:
        """Reads what others appended to each, all at one moment, and keeps it."""
        found = self._store.read_all({one.stream: one.version for one in held})
        for one in held:
            one.take(found[one.stream])
            self.keep(one)

    def keep(self, held: Held[Any, Any]) -> None:
        with self._lock:
            if held.version >= self._states.get(held.stream, (0, None))[0]:
                self._states[held.stream] = (held.version, held.state)
            self._states.move_to_end(held.stream)
            while len(self._states) > self._most:
                self._states.popitem(last=False)
