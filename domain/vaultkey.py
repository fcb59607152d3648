"""The vault's key versions: created, active, former, retired, destroyed. Exactly one is active once any was activated.

A key is former as soon as another one is active: it still opens what is sealed to it. It is retired once it is on
record that nothing is.
"""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec

from domain.errors import AlreadyExists, NotAllowed, Unknown
from domain.events import (
    Retained,
    VaultKeyActivated,
    VaultKeyCreated,
    VaultKeyDestroyed,
    VaultKeyEvent,
    VaultKeyRetired,
)

Standing = Literal["created", "active", "former", "retired", "destroyed"]


class VaultKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Standing of each key by its thumbprint, in order of version. `retained`: what is still kept of destroyed ones."""

    keys: dict[str, Standing] = {}
    retained: dict[str, Retained] = {}

    @property
    def active(self) -> str | None:
        return next((key for key, standing in self.keys.items() if standing == "active"), None)


def evolve(state: VaultKeys, event: VaultKeyEvent) -> VaultKeys:
    change = msgspec.structs.replace
    match event:
        case VaultKeyCreated():
            return change(state, keys={**state.keys, event.key: "created"})
        case VaultKeyActivated():
            others: dict[str, Standing] = {
                key: "former" if standing == "active" else standing for key, standing in state.keys.items()
            }
            return change(state, keys={**others, event.key: "active"})
        case VaultKeyRetired():
            return change(state, keys={**state.keys, event.key: "retired"})
        case VaultKeyDestroyed():
            kept = {key: one for key, one in state.retained.items() if key != event.key}
            if event.retained is not None:
                kept[event.key] = event.retained
            return change(state, keys={**state.keys, event.key: "destroyed"}, retained=kept)
        case _:
            assert_never(event)


def create(state: VaultKeys, key: str, custody: str) -> list[VaultKeyEvent]:
    if key in state.keys:
        raise AlreadyExists("Vault key", key, "Generate another.")
    return [VaultKeyCreated(key=key, version=len(state.keys) + 1, custody=custody)]


def activate(state: VaultKeys, key: str) -> list[VaultKeyEvent]:
    """The key that was active is former by the same event: it still opens, nothing new is sealed to it."""
    standing = _standing(state, key)
    if standing == "destroyed":
        raise NotAllowed("activate the vault key", f"{key} is destroyed", "Create a new one.")
    return [] if standing == "active" else [VaultKeyActivated(key=key)]


def retire(state: VaultKeys, key: str) -> list[VaultKeyEvent]:
    """Whoever asks has seen that nothing is sealed to it."""
    standing = _standing(state, key)
    if standing in ("active", "destroyed"):
        raise NotAllowed("retire the vault key", f"{key} is {standing}", "See `tenantry vault keys`.")
    return [] if standing == "retired" else [VaultKeyRetired(key=key)]


def destroy(state: VaultKeys, key: str) -> list[VaultKeyEvent]:
    """Only of a retired key: that nothing is sealed to it stands on the record before it ends."""
    standing = _standing(state, key)
    if standing == "active":
        raise NotAllowed("destroy the vault key", f"{key} is active", "Activate another key first.")
    if standing not in ("retired", "destroyed"):
        raise NotAllowed("destroy the vault key", f"{key} is not retired", "Retire it first.")
    return [] if standing == "destroyed" else [VaultKeyDestroyed(key=key)]


def retain(state: VaultKeys, key: str, retained: Retained | None) -> list[VaultKeyEvent]:
    """Of a destroyed key: what is still kept of it, if that is not what is on record. A date that this look did not see
    stays known."""
    if _standing(state, key) != "destroyed":
        raise NotAllowed("record what is retained", f"{key} is not destroyed", "Destroy it first.")
    known = state.retained.get(key)
    still = known or retained if retained is not None and retained.until is None else retained
    return [] if still == known else [VaultKeyDestroyed(key=key, retained=still)]


def _standing(state: VaultKeys, key: str) -> Standing:
    if key not in state.keys:
        raise Unknown("vault key", key, "See `tenantry vault keys`.")
    return state.keys[key]
