"""What the events of a stream come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import TypeVar

from domain import collection as collections
from domain import credential as credentials
from domain import run as runs
from domain import tenant as tenants
from domain.collection import Collection
from domain.credential import Credential
from domain.events import CollectionEvent, CredentialEvent, RunEvent, TenantEvent
from domain.run import Run
from domain.tenant import Tenant

S = TypeVar("S")
E = TypeVar("E")


def fold(evolve: Callable[[S, E], S], initial: S, events: Iterable[E]) -> S:
    return reduce(evolve, events, initial)


def tenant(events: Iterable[TenantEvent]) -> Tenant | None:
    return fold(tenants.evolve, None, events)


def credential(events: Iterable[CredentialEvent]) -> Credential | None:
    return fold(credentials.evolve, None, events)


def run(events: Iterable[RunEvent]) -> Run | None:
    return fold(runs.evolve, None, events)


def collection(events: Iterable[CollectionEvent]) -> Collection:
    return fold(collections.evolve, Collection(), events)
