"""The vault's keys over their life: created and activated, retired, destroyed; and the keyring of those that open.

Law: a key is kept before an event names it, and named as destroyed before it is gone. So a kill leaves a key too many
and never one too few: a stray that nothing names opens nothing, and asking again to destroy finishes the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from threading import Lock

import msgspec

from crypto.keyring import Keyring, PrivateHalf
from domain import ids, vaultkey
from domain.errors import NotAllowed, TenantryError, Unknown
from domain.events import Retained, VaultKeyCreated, VaultKeyEvent
from domain.vaultkey import VaultKeys
from eventstore.streams import Held, Snapshots
from vault.custody import Custodies
from vault.resealing import Counted

RESEAL = "Reseal what is left with `tenantry vault rotate --resume`."
RESTORE = "Restore it in the secret store, or delete it."


class Versions(msgspec.Struct, frozen=True):
    """`created`: by thumbprint."""

    keys: VaultKeys = VaultKeys()
    created: dict[str, VaultKeyCreated] = {}


def evolve(state: Versions, event: VaultKeyEvent) -> Versions:
    keys = vaultkey.evolve(state.keys, event)
    if isinstance(event, VaultKeyCreated):
        return Versions(keys, {**state.created, event.key: event})
    return Versions(keys, state.created)


def _create(state: Versions, key: str, custody: str) -> list[VaultKeyEvent]:
    created = vaultkey.create(state.keys, key, custody)
    keys = state.keys
    for event in created:
        keys = vaultkey.evolve(keys, event)
    return [*created, *vaultkey.activate(keys, key)]


class Keys:
    """Methods may be called from any thread. `counts` tells what is stored sealed to each key."""

    def __init__(
        self,
        snapshots: Snapshots,
        custodies: Custodies,
        counts: Callable[[], Counted],
        clock: Callable[[], datetime],
    ) -> None:
        self._snapshots = snapshots
        self._custodies = custodies
        self._counts = counts
        self._clock = clock
        self._halves: dict[str, PrivateHalf] = {}
        self._loaded: tuple[VaultKeys, Keyring] | None = None
        self._loading = Lock()
        self._changing = Lock()

    def versions(self) -> Versions:
        return self._held().state

    def keyring(self) -> Keyring:
        """The keys that the events name, loaded anew when those have changed. Raises `NotAllowed` without any."""
        state = self.versions()
        with self._loading:
            if self._loaded is None or self._loaded[0] != state.keys:
                if state.keys.active is None:
                    raise NotAllowed("use the vault", "it has no key yet", "Make one with `tenantry init`.")
                self._halves = self._opened(state)
                self._loaded = (state.keys, Keyring(self._halves, state.keys.active))
            return self._loaded[1]

    def keyring_with(self, key: str) -> Keyring:
        """The keyring that was loaded last when it has this key, else the one of now. Raises `NotAllowed`."""
        with self._loading:
            if self._loaded is not None and key in self._loaded[1]:
                return self._loaded[1]
        return self.keyring()

    def _opened(self, state: Versions) -> dict[str, PrivateHalf]:
        """The halves of all keys that are not destroyed; those that are open already are not opened again."""
        names = [key for key, standing in state.keys.keys.items() if standing != "destroyed"]
        halves = {key: self._halves[key] for key in names if key in self._halves}
        custodies = dict.fromkeys(state.created[key].custody for key in names if key not in halves)
        for custody in custodies:
            wanted = [key for key in names if key not in halves and state.created[key].custody == custody]
            halves.update(self._custodies.of(custody).halves(wanted))
        return halves

    def create(self, actor: str, cause: str) -> str:
        """Its thumbprint; it is active from now on. Kept first, recorded and activated afterwards."""
        with self._changing:
            return self._create(actor, cause)

    def rotate(self, replaces: str, actor: str, cause: str) -> str:
        """The active key's thumbprint: a new one's when `replaces` was active, else whose turn it is already. So the
        same request may be made again. Raises `Unknown`."""
        with self._changing:
            keys = self.versions().keys
            if replaces not in keys.keys:
                raise Unknown("vault key", replaces, "See `tenantry vault keys`.")
            return self._create(actor, cause) if keys.active == replaces else keys.active or ""

    def _create(self, actor: str, cause: str) -> str:
        custody = self._custodies.current()
        held = self._held()
        public = custody.create()
        try:
            held.decide(
                lambda state: _create(state, public.thumbprint, custody.name),
                at=self._clock(),
                actor=actor,
                cause=cause,
            )
        except TenantryError:
            held.refresh()
            if public.thumbprint not in held.state.keys.keys:
                custody.destroy(public.thumbprint)
            raise
        return public.thumbprint

    def retire(self, key: str, actor: str, cause: str) -> None:
        """Records that nothing is sealed to it any more; raises `NotAllowed` while anything is. It still opens."""
        self._ended("retire the vault key", vaultkey.retire, key, actor, cause)

    def destroy(self, key: str, actor: str, cause: str) -> Retained | None:
        """Of a retired key, after looking once more. What is still sealed to it, in a backup perhaps, never opens
        again. A second request deletes what a kill has left. What the custody keeps nevertheless, which is recorded
        afterwards."""
        self._ended("destroy the vault key", vaultkey.destroy, key, actor, cause)
        with self._loading:
            self._loaded = None
            self._halves.pop(key, None)
        retained = self._custodies.of(self.versions().created[key].custody).destroy(key)
        held = self._held()
        held.decide(
            lambda state: vaultkey.retain(state.keys, key, retained), at=self._clock(), actor=actor, cause=cause
        )
        return held.state.keys.retained.get(key)

    def _ended(
        self,
        command: str,
        decide: Callable[[VaultKeys, str], Sequence[VaultKeyEvent]],
        key: str,
        actor: str,
        cause: str,
    ) -> None:
        with self._changing:
            held = self._held()
            if not decide(held.state.keys, key):
                return
            counted = self._counts()
            if left := counted.sealed[key]:
                raise NotAllowed(command, f"{left} stored envelopes are sealed to {key}", RESEAL)
            for name in counted.unreadable:
                raise NotAllowed(command, f"{name} cannot be read, and may be sealed to {key}", RESTORE)
            held.decide(lambda state: decide(state.keys, key), at=self._clock(), actor=actor, cause=cause)

    def _held(self) -> Held[Versions, VaultKeyEvent]:
        held: Held[Versions, VaultKeyEvent] = self._snapshots.held(ids.VAULT_KEYS, evolve, Versions())
        self._snapshots.refresh(held)
        return held
