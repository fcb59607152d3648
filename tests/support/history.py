"""A stream as a state machine test holds it: what was decided on it so far and the state that gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec
from folds import fold

from domain.events import AnyEvent, Event

S = TypeVar("S")
E = TypeVar("E", bound=Event)


class History(Generic[S, E]):
    def __init__(self, evolve: Callable[[S, E], S], initial: S) -> None:
        self._evolve = evolve
        self._initial = initial
        self.state = initial
        self.events: list[E] = []

    def take(self, decided: Sequence[E]) -> Sequence[E]:
        for event in decided:
            self.state = self._evolve(self.state, event)
            self.events.append(event)
        return decided

    def check(self) -> None:
        """The state is the fold of the events, and of the same events after they were stored and read."""
        stored = [msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=AnyEvent) for event in self.events]
        for events in (self.events, stored):
            assert fold(self._evolve, self._initial, events) == self.state  # type: ignore[arg-type]
