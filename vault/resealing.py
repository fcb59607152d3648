"""Sealing everything that is stored to the active vault key, a few names at a time, while releases go on.

Nothing is kept of how far it came: what is still to do is read off the headers in the secret store, and whether an
envelope is the recorded one off the events. So it may be killed anywhere and is simply done again.

Law for a credential: open, seal to the active key, record the new envelope's digest, then store the new envelope. In
between the former envelope is in its place and still counts (see `vault.lineage`). An envelope that no event names is
not opened and not replaced: it may be of a writer who has stored and not yet recorded it. One that is stored between
the last look at its place and the put is overwritten, which the events tell and `left` passes on.

A data key needs no record: its event names the key itself, whatever it is wrapped in. Plaintext exists in this process
only, of as many items as the secret store takes calls at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from threading import Lock
from typing import NamedTuple, TypeVar

import msgspec

from crypto import datakey, envelope, jwe
from crypto.keyring import Keyring
from crypto.stores import SecretStore, credential_of, data_key_of, put_data_key
from domain import ids
from domain import tenant as tenants
from domain.errors import EnvelopeRejected, Malformed, SecretMissing, Unreadable, VersionConflict
from domain.events import CredentialResealed, TenantEvent
from domain.tenant import Tenant
from eventstore.store import Append, EventStore
from eventstore.streams import ATTEMPTS, Held
from vault import lineage
from vault.lineage import HeldLineage, Lineage
from vault.messages import BUSY, MOST_LEFT, Left, Resealed, ResealStep
from vault.policy import digest_of

CREDENTIALS, DATA_KEYS = "credential-", "datakey-"
TYPES = {CREDENTIALS: envelope.TYP, DATA_KEYS: datakey.TYP}
READERS = 8
"""Headers that are read at once: a Key Vault answers in tens of milliseconds."""
_SLICE = 500
_DATA_KEYS_IN_A_TURN = 20
"""Wrapped anew while nobody else stores a data key: whoever registers a tenant waits for so many."""

T = TypeVar("T")
R = TypeVar("R")

WHY: dict[str, str] = {
    "unreadable": "it cannot be read, or is no envelope: restore it, or delete it",
    "unrecorded": "no event names it: the secret was put and not recorded, or it was exchanged",
    "revoked": "its credential is revoked: revoke it again to delete it",
    "rejected": "it does not open",
    BUSY: "something else happened to it meanwhile: the next pass takes it",
    "replaced": "a new credential was being set meanwhile: if it is refused at the next run, set it again",
}
"""Why an item is left as it is."""


class Counted(NamedTuple):
    """`sealed`: stored envelopes and wrapped data keys by the thumbprint in their header. `unreadable`: the names of
    what may be sealed to any key, because it cannot be read."""

    sealed: Counter[str]
    unreadable: list[str]


class _Prepared(msgspec.Struct, frozen=True):
    """A new envelope that is not stored yet, beside the one that is; `held`: the stream up to where it was decided."""

    name: str
    former: bytes
    sealed: bytes
    event: CredentialResealed
    held: HeldLineage


class Resealing:
    """Methods may be called from any thread; steps take turns. `wrapping`: whoever stores a data key has it."""

    def __init__(
        self,
        events: EventStore,
        secrets: SecretStore,
        keyring: Callable[[], Keyring],
        clock: Callable[[], datetime],
    ) -> None:
        self._events = events
        self._secrets = secrets
        self._keyring = keyring
        self._clock = clock
        self._stepping = Lock()
        self._names: list[str] = []
        self.wrapping = Lock()

    def step(self, message: ResealStep) -> Resealed:
        """Looks at the next `limit` names past `after`, and reseals those that are sealed to another key."""
        with self._stepping:
            if not message.after or not self._names:
                self._names = self._stored_names()
            begin = bisect_right(self._names, message.after) if message.after else 0
            names = self._names[begin : begin + message.limit]
            remaining = len(self._names) - begin - len(names)
            if not remaining:
                self._names = []
            done = _Done()
            keyring = self._keyring()
            credentials = [name for name in names if not name.startswith(DATA_KEYS)]
            looked = self._each(lambda name: self._looked_at(name, keyring, done), credentials)
            self._rewrap_all([name for name in names if name.startswith(DATA_KEYS)], keyring, done)
            prepared = [one for one in looked if one is not None]
            self._each(lambda one: self._store(one, done), self._recorded(prepared, message, done))
        left = sorted(done.left, key=lambda one: one.name)
        return Resealed(
            after=names[-1] if remaining else "",
            resealed=done.resealed,
            remaining=remaining,
            left=tuple(left[:MOST_LEFT]),
            left_count=len(left),
        )

    def _each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """As many at once as the secret store is faster with. What one raises is raised, once those that had begun have
        ended; no other begins."""
        if self._secrets.at_once == 1 or len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(self._secrets.at_once, len(items))) as workers:
            return list(workers.map(work, items))

    def counts(self) -> Counted:
        """What is read and is no envelope does not count."""
        counted = Counted(Counter(), [])
        names = self._stored_names()
        with ThreadPoolExecutor(READERS) as readers:
            for begin in range(0, len(names), _SLICE):
                some = names[begin : begin + _SLICE]
                for name, found in zip(some, readers.map(self._sealed_to, some), strict=True):
                    if isinstance(found, Unreadable):
                        counted.unreadable.append(name)
                    elif found is not None:
                        counted.sealed[found] += 1
        return counted

    def _stored_names(self) -> list[str]:
        return sorted(name for prefix in TYPES for name in self._secrets.names(prefix))

    def _sealed_to(self, name: str) -> str | Unreadable | None:
        with suppress(EnvelopeRejected):
            try:
                stored = self._stored(name)
            except Unreadable as error:
                return error
            if stored is not None:
                return jwe.read(_text(stored), _type_of(name)).kid
        return None

    def _stored(self, name: str) -> bytes | None:
        """None when it is gone. Raises `Unreadable`, for a name that no secret can have too."""
        try:
            return self._secrets.get(name)
        except SecretMissing:
            return None
        except Malformed:
            raise Unreadable("secret", name, "no secret is named so", "Delete it.") from None

    def _looked_at(self, name: str, keyring: Keyring, done: _Done) -> _Prepared | None:
        """Its new envelope, for the record."""
        try:
            return self._prepare(name, keyring, done)
        except (EnvelopeRejected, Malformed):
            done.leave(name, "rejected")
        return None

    # credentials

    def _prepare(self, name: str, keyring: Keyring, done: _Done) -> _Prepared | None:
        try:
            former = self._stored(name)
            if former is None:
                return None
            header = envelope.read_header(_text(former))
            tenant, slot = credential_of(name)
        except (Unreadable, EnvelopeRejected, Malformed):
            done.leave(name, "unreadable")
            return None
        if header.kid == keyring.active.thumbprint:
            return None
        held: HeldLineage = Held(self._events, ids.credential_stream(tenant, slot), lineage.evolve, Lineage())
        credential = held.state.credential
        if credential is None or digest_of(former) not in held.state.digests:
            done.leave(name, "unrecorded")
            return None
        if credential.state == "revoked":
            done.leave(name, "revoked")
            return None
        with envelope.open_(_text(former), tenant=tenant, slot=slot, keyring=keyring) as payload:
            sealed = envelope.seal(payload, tenant=tenant, slot=slot, key=keyring.active).encode()
        event = CredentialResealed(vault_key=keyring.active.thumbprint, digest=digest_of(sealed))
        return _Prepared(name, former, sealed, event, held)

    def _recorded(self, prepared: Sequence[_Prepared], message: ResealStep, done: _Done) -> Sequence[_Prepared]:
        """Those whose digest is recorded now: all in one transaction, or one by one when another writer was first."""
        try:
            self._append(prepared, message)
        except VersionConflict:
            return [one for one in prepared if self._recorded_alone(one, message, done)]
        return prepared

    def _recorded_alone(self, one: _Prepared, message: ResealStep, done: _Done) -> bool:
        """Behind whatever else was recorded meanwhile, unless that was another credential."""
        generation = one.held.state.generation
        for _ in range(ATTEMPTS):
            one.held.refresh()
            if one.held.state.generation != generation:
                return False
            try:
                self._append([one], message)
            except VersionConflict:
                continue
            return True
        done.leave(one.name, BUSY)
        return False

    def _append(self, prepared: Sequence[_Prepared], message: ResealStep) -> None:
        appends = [Append(one.held.stream, one.held.version, (one.event,)) for one in prepared]
        self._events.append_all(appends, at=self._clock(), actor=message.actor, cause=message.cause)

    def _store(self, one: _Prepared, done: _Done) -> None:
        """Unless a writer has been here since. A secret store cannot compare and replace in one step, so what happened
        meanwhile is read from the events afterwards, and told."""
        if not self._secrets.exchange(one.name, one.former, one.sealed):
            return
        done.count()
        generation = one.held.state.generation
        one.held.refresh()
        if one.held.state.generation != generation:
            done.leave(one.name, "replaced")
        elif one.held.state.credential is not None and one.held.state.credential.state == "revoked":
            self._secrets.delete(one.name)

    # data keys

    def _rewrap_all(self, names: Sequence[str], keyring: Keyring, done: _Done) -> None:
        for begin in range(0, len(names), _DATA_KEYS_IN_A_TURN):
            with self.wrapping:
                turn = names[begin : begin + _DATA_KEYS_IN_A_TURN]
                self._each(lambda name: self._rewrap_if_sound(name, keyring, done), turn)

    def _rewrap_if_sound(self, name: str, keyring: Keyring, done: _Done) -> None:
        try:
            self._rewrap(name, keyring, done)
        except Unreadable:
            done.leave(name, "unreadable")
        except (EnvelopeRejected, Malformed):
            done.leave(name, "rejected")

    def _rewrap(self, name: str, keyring: Keyring, done: _Done) -> None:
        """One of an offboarded tenant is deleted: it may have been written back while it was being destroyed."""
        stored = self._stored(name)
        if stored is None:
            return
        tenant = data_key_of(name)
        held: Held[Tenant | None, TenantEvent] = Held(self._events, ids.tenant_stream(tenant), tenants.evolve, None)
        if _offboarded(held):
            self._secrets.delete(name)
            return
        if datakey.wrapped_to(_text(stored)) == keyring.active.thumbprint:
            return
        key = datakey.unwrap(_text(stored), tenant=tenant, keyring=keyring)
        if held.state is None or held.state.data_key != key.id:
            done.leave(name, "unrecorded")
            return
        put_data_key(self._secrets, tenant, datakey.wrap(key, tenant=tenant, key=keyring.active))
        done.count()
        held.refresh()
        if _offboarded(held):
            self._secrets.delete(name)


class _Done:
    """What one step has done so far. Any thread may add to it."""

    def __init__(self) -> None:
        self.resealed = 0
        self.left: list[Left] = []
        self._adding = Lock()

    def count(self) -> None:
        with self._adding:
            self.resealed += 1

    def leave(self, name: str, why: str) -> None:
        with self._adding:
            self.left.append(Left(name=name, why=why))


def _offboarded(held: Held[Tenant | None, TenantEvent]) -> bool:
    return held.state is not None and held.state.state == "offboarded"


def _text(stored: bytes) -> str:
    return stored.decode("ascii", "replace")


def _type_of(name: str) -> str:
    return next(kind for prefix, kind in TYPES.items() if name.startswith(prefix))
