"""Vault keys under any sequence of commands: exactly one is active once any was, and only a retired one ends."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from history import History
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from domain import vaultkey
from domain.errors import AlreadyExists, NotAllowed, Unknown
from domain.events import Retained, VaultKeyCreated, VaultKeyEvent
from domain.vaultkey import VaultKeys

names = st.sampled_from(["k1", "k2", "k3", "k4"])
SEEN = Retained(name="vault-1", until=datetime(2026, 12, 22, tzinfo=UTC), why="purge-protected")
UNSEEN = Retained(name="vault-1", until=None, why="unseen")


class Versions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.history: History[VaultKeys, VaultKeyEvent] = History(vaultkey.evolve, VaultKeys())
        self.versions: list[int] = []
        self.destroyed: set[str] = set()
        self.ever_active = False

    @property
    def keys(self) -> VaultKeys:
        return self.history.state

    @rule(key=names)
    def create(self, key: str) -> None:
        if key in self.keys.keys:
            with pytest.raises(AlreadyExists):
                vaultkey.create(self.keys, key, "file")
            return
        (event,) = self.history.take(vaultkey.create(self.keys, key, "file"))
        assert isinstance(event, VaultKeyCreated)
        self.versions.append(event.version)

    @rule(key=names)
    def activate(self, key: str) -> None:
        standing = self.keys.keys.get(key)
        if standing in (None, "destroyed"):
            with pytest.raises(Unknown if standing is None else NotAllowed):
                vaultkey.activate(self.keys, key)
            return
        former = self.keys.active
        assert bool(self.history.take(vaultkey.activate(self.keys, key))) == (former != key)
        assert self.keys.active == key
        assert former in (None, key) or self.keys.keys[former] == "former"
        self.ever_active = True

    @rule(key=names)
    def retire(self, key: str) -> None:
        standing = self.keys.keys.get(key)
        if standing in (None, "active", "destroyed"):
            with pytest.raises(Unknown if standing is None else NotAllowed):
                vaultkey.retire(self.keys, key)
            return
        assert bool(self.history.take(vaultkey.retire(self.keys, key))) == (standing != "retired")
        assert self.keys.keys[key] == "retired"

    @rule(key=names)
    def destroy(self, key: str) -> None:
        standing = self.keys.keys.get(key)
        if standing not in ("retired", "destroyed"):
            with pytest.raises(Unknown if standing is None else NotAllowed):
                vaultkey.destroy(self.keys, key)
            return
        assert bool(self.history.take(vaultkey.destroy(self.keys, key))) == (standing == "retired")
        self.destroyed.add(key)

    @rule(key=names, kept=st.sampled_from([None, SEEN, UNSEEN]))
    def retain(self, key: str, kept: Retained | None) -> None:
        standing = self.keys.keys.get(key)
        if standing != "destroyed":
            with pytest.raises(Unknown if standing is None else NotAllowed):
                vaultkey.retain(self.keys, key, kept)
            return
        before = self.keys.retained.get(key)
        self.history.take(vaultkey.retain(self.keys, key, kept))
        assert self.keys.retained.get(key) == (before if kept == UNSEEN and before else kept)
        assert not vaultkey.retain(self.keys, key, kept), "it is on record"

    @invariant()
    def exactly_one_is_active_once_any_was(self) -> None:
        active = [key for key, standing in self.keys.keys.items() if standing == "active"]
        assert len(active) == self.ever_active
        assert self.keys.active == (active[0] if active else None)

    @invariant()
    def a_destroyed_key_stays_destroyed(self) -> None:
        assert {key for key, standing in self.keys.keys.items() if standing == "destroyed"} == self.destroyed

    @invariant()
    def versions_count_from_one(self) -> None:
        assert self.versions == list(range(1, len(self.keys.keys) + 1))

    def teardown(self) -> None:
        self.history.check()


TestAnySequenceOfKeyCommands = Versions.TestCase
TestAnySequenceOfKeyCommands.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
