"""The registry of events, and what every fold owes to every event of its stream."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from domain import collection, credential, run, tenant, vaultkey
from domain.collection import Collection
from domain.events import (
    EVENT_TYPES,
    AnyEvent,
    CollectionEvent,
    CredentialEvent,
    Event,
    LedgerEvent,
    RunEvent,
    TenantEvent,
    VaultKeyEvent,
    stored_name,
)
from domain.vaultkey import VaultKeys

GOLDEN = Path(__file__).parent / "golden" / "events.jsonl"
EXAMPLES: list[Event] = [
    msgspec.json.decode(json.dumps(json.loads(line)["event"]), type=AnyEvent)
    for line in GOLDEN.read_text().splitlines()
    if json.loads(line)["name"] in EVENT_TYPES
]
"""At least one event of every type (the mapper's test says so)."""
UNIONS: dict[Any, tuple[Callable[[Any, Any], object], object]] = {
    TenantEvent: (tenant.evolve, None),
    CredentialEvent: (credential.evolve, None),
    VaultKeyEvent: (vaultkey.evolve, VaultKeys()),
    RunEvent: (run.evolve, None),
    CollectionEvent: (collection.evolve, Collection()),
}
"""Union to its fold and the state before the first event. The ledger's one event has no fold."""
FOLDED = [kind for union in UNIONS for kind in get_args(union)]


def test_every_event_type_is_registered_under_its_name() -> None:
    assert set(EVENT_TYPES.values()) == set(Event.__subclasses__())
    assert all(stored_name(event) in EVENT_TYPES for event in EXAMPLES)


def test_every_stored_name_is_unique_and_has_a_version() -> None:
    assert len(EVENT_TYPES) == len(Event.__subclasses__())
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*/[1-9][0-9]*", name) for name in EVENT_TYPES)


def test_every_event_belongs_to_exactly_one_stream() -> None:
    belonging = [*FOLDED, LedgerEvent]
    assert len(belonging) == len(set(belonging))
    assert set(belonging) == set(EVENT_TYPES.values())


@pytest.mark.parametrize("kind", FOLDED, ids=lambda kind: kind.__name__)
def test_every_fold_handles_every_event_of_its_stream(kind: type[Event]) -> None:
    union = next(union for union in UNIONS if kind in get_args(union))
    evolve, before = UNIONS[union]
    begin = next(event for event in EXAMPLES if isinstance(event, get_args(union)[0]))
    state = evolve(before, begin)
    for event in (event for event in EXAMPLES if isinstance(event, kind)):
        assert evolve(state, event) == evolve(state, event)
        assert type(evolve(state, event)) is type(state)


@pytest.mark.parametrize("event", EXAMPLES, ids=stored_name)
def test_an_event_is_frozen_and_closed(event: Event) -> None:
    assert event.__struct_config__.frozen
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**msgspec.to_builtins(event), "secret": "no"}, type(event))
