"""What the keyholder does with a request: decide, record, and only then open. No sockets and no processes here.

Law: the event of a release stands in the store before the envelope is read. If it cannot be stored, nothing is opened;
and without its own keys the vault neither decides nor records a release.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, TypeAlias, TypeVar, assert_never

from crypto import datakey, envelope, transit
from crypto.keyring import Keyring, public_jwks
from crypto.secret import Secret
from crypto.stores import SecretStore, credential_name, data_key_name, put_data_key
from domain import ids
from domain import run as runs
from domain import tenant as tenants
from domain.credential import Credential
from domain.errors import EnvelopeRejected, ReleaseRefused, SecretMissing, VersionConflict
from domain.events import CredentialEvent, DataKeyDenied, DataKeyReleased, ReleaseDenied, RunEvent, TenantEvent
from domain.ids import RunId, TenantId
from domain.run import Run
from domain.tenant import Tenant
from eventstore.store import EventStore
from eventstore.streams import ATTEMPTS, Held, Snapshots
from vault import lineage, policy
from vault.custody import Custodies
from vault.keys import Keys
from vault.lineage import HeldLineage, Lineage
from vault.messages import (
    MOST_LEFT,
    Answer,
    CreateDataKey,
    CreateVaultKey,
    Destroyed,
    DestroyVaultKey,
    Done,
    Health,
    Healthy,
    Hello,
    KeyRequest,
    ListVaultKeys,
    PublicKeys,
    PublicKeySet,
    Release,
    ReleaseDataKey,
    Request,
    ResealStep,
    RetireVaultKey,
    RotateVaultKey,
    Sealed,
    VaultKey,
    VaultKeySet,
    data_key_context,
    release_context,
)
from vault.resealing import Resealing

ACTOR = "vault"

_DataKeyDecision: TypeAlias = DataKeyReleased | DataKeyDenied

S = TypeVar("S")
E = TypeVar("E")


class _Asker(NamedTuple):
    """As whom and because of what it is recorded what was asked for."""

    actor: str
    cause: str


class Holding:
    """The keys, and the stores that say who may use them. Methods may be called from any thread.

    It raises what `domain.errors` names; no error quotes what was opened.
    """

    def __init__(
        self, events: EventStore, secrets: SecretStore, custodies: Custodies, clock: Callable[[], datetime]
    ) -> None:
        self._events = events
        self._snapshots = Snapshots(events)
        self._secrets = secrets
        self._clock = clock
        self._resealing = Resealing(events, secrets, self.keyring, clock)
        self._keys = Keys(self._snapshots, custodies, self._resealing.counts, clock)

    def answer(self, request: Request, caller: str) -> Answer:
        """`caller`: who the operating system says is asking; the cause of what an operator is given."""
        match request:
            case Hello():
                return Hello(pid=os.getpid())
            case Release():
                return self.release(request, caller)
            case ReleaseDataKey():
                return self.release_data_key(request, caller)
            case CreateDataKey():
                return self.create_data_key(request)
            case PublicKeys():
                return PublicKeySet(jwks=public_jwks(self.keyring().public))
            case Health():
                return self._health()
            case _:
                return self._about_keys(request)

    def _about_keys(self, request: KeyRequest) -> Answer:
        match request:
            case CreateVaultKey():
                return self.create_vault_key(request)
            case RotateVaultKey():
                return Done(key=self._keys.rotate(request.replaces, request.actor, request.cause))
            case ResealStep():
                return self._resealing.step(request)
            case RetireVaultKey():
                self._keys.retire(request.key, request.actor, request.cause)
                return Done(key=request.key)
            case DestroyVaultKey():
                return Destroyed(
                    key=request.key, retained=self._keys.destroy(request.key, request.actor, request.cause)
                )
            case ListVaultKeys():
                return self.vault_keys(count=request.count)
            case _:
                assert_never(request)

    def close(self) -> None:
        self._events.close()

    # credentials

    def release(self, message: Release, caller: str) -> Sealed:
        """Raises `ReleaseRefused` once the reason is recorded, and whatever keeps an event from being stored."""
        request = policy.ReleaseRequest(
            run=ids.run_id(message.run),
            tenant=ids.tenant_id(message.tenant),
            slot=ids.slot(message.slot),
            activation=message.activation,
            epoch=message.epoch,
            purpose=message.purpose,
            transit_key=message.transit_key,
            operator=message.operator,
        )
        asker = _asker(request, caller)
        self.keyring()
        stream = ids.credential_stream(request.tenant, request.slot)
        held: HeldLineage = self._snapshots.held(stream, lineage.evolve, Lineage())
        for _ in range(ATTEMPTS):
            decided = self._decided(held, request, asker)
            stored = self._stored(request)
            digest = None if stored is None else policy.digest_of(stored)
            if stored is not None and digest in decided.digests:
                return self._opened(held, request, stored, asker)
            held.refresh()
            if held.state.generation == decided.generation:
                if stored is not None and digest in held.state.digests:
                    return self._opened(held, request, stored, asker)
                why = "envelope-missing" if stored is None else "envelope-exchanged"
                raise self._denied(held, request, why, asker)
        raise VersionConflict(stream, held.version)

    def _decided(self, held: HeldLineage, request: policy.ReleaseRequest, asker: _Asker) -> Lineage:
        """The credential whose release is now recorded, decided on what the events said at one moment."""
        run, tenant = self._run(request.run), self._tenant(request.tenant)

        def decide(state: Lineage) -> list[CredentialEvent]:
            credential = state.credential
            return [
                policy.decide_release(
                    run=run.state,
                    tenant=tenant.state,
                    credential=credential,
                    request=request,
                    holders=() if credential is None else self._holders(credential, request.run),
                    now=self._clock(),
                )
            ]

        for _ in range(ATTEMPTS):
            self._snapshots.refresh(held, run, tenant)
            try:
                (recorded,) = held.append(decide, at=self._clock(), actor=asker.actor, cause=asker.cause)
            except VersionConflict:
                continue
            self._snapshots.keep(held)
            if isinstance(recorded.event, ReleaseDenied):
                raise ReleaseRefused(_name(request), policy.REASONS[recorded.event.why])
            self._snapshots.refresh(run, tenant)  # the append fences the credential's stream, not theirs
            if why := policy.overtaken(run=run.state, tenant=tenant.state, request=request):
                raise self._denied(held, request, why, asker)
            return held.state
        raise VersionConflict(held.stream, held.version)

    def _stored(self, request: policy.ReleaseRequest) -> bytes | None:
        try:
            return self._secrets.get(credential_name(request.tenant, request.slot))
        except SecretMissing:
            return None

    def _opened(self, held: HeldLineage, request: policy.ReleaseRequest, stored: bytes, asker: _Asker) -> Sealed:
        """The envelope may be newer than the request, and sealed to a newer key."""
        sealed = stored.decode("ascii", "replace")
        try:
            key = envelope.read_header(sealed).kid
            payload = envelope.open_(
                sealed, tenant=request.tenant, slot=request.slot, keyring=self._keys.keyring_with(key)
            )
        except EnvelopeRejected:
            self._denied(held, request, "envelope-rejected", asker)
            raise
        context = release_context(request.run, request.tenant, request.slot, request.activation, request.epoch)
        with payload:
            return Sealed(payload=transit.seal(request.transit_key, payload, context), key=key)

    def _denied(self, held: HeldLineage, request: policy.ReleaseRequest, why: str, asker: _Asker) -> ReleaseRefused:
        """Recorded; the error to raise."""
        event = policy.denied(request, why)
        held.decide(lambda _: [event], at=self._clock(), actor=asker.actor, cause=asker.cause)
        return ReleaseRefused(_name(request), policy.REASONS[why])

    # data keys

    def release_data_key(self, message: ReleaseDataKey, caller: str) -> Sealed:
        """Raises `ReleaseRefused` once the reason is recorded, and whatever keeps an event from being stored."""
        request = policy.DataKeyRequest(
            tenant=ids.tenant_id(message.tenant),
            run=None if message.run is None else ids.run_id(message.run),
            activation=message.activation,
            epoch=message.epoch,
            operator=message.operator,
            why=message.why,
        )

        def decide(state: Tenant | None) -> _DataKeyDecision:
            run = None if request.run is None else self._read(self._run(request.run)).state
            return policy.decide_data_key_release(run=run, tenant=state, request=request)

        self.keyring()
        held = self._read(self._tenant(request.tenant))
        decided = self._on_data_key(held, decide, request, caller)
        if isinstance(decided, DataKeyDenied):
            raise ReleaseRefused(f"The data key of {request.tenant}", policy.REASONS[decided.why])
        with self._data_key(held, decided.key, request, caller) as key:
            context = data_key_context(request.tenant, request.run or request.operator or "")
            return Sealed(payload=transit.seal(message.transit_key, key, context), key=decided.key)

    def _on_data_key(
        self,
        held: Held[Tenant | None, TenantEvent],
        decide: Callable[[Tenant | None], _DataKeyDecision],
        request: policy.DataKeyRequest,
        caller: str,
    ) -> _DataKeyDecision:
        """What was decided, recorded."""
        asker = _asker(request, caller)
        (recorded,) = held.decide(lambda state: [decide(state)], at=self._clock(), actor=asker.actor, cause=asker.cause)
        assert isinstance(recorded.event, DataKeyReleased | DataKeyDenied)  # noqa: S101 - what was decided
        return recorded.event

    def _data_key(
        self, held: Held[Tenant | None, TenantEvent], recorded: str, request: policy.DataKeyRequest, caller: str
    ) -> Secret:
        """The key that the event names and no other, whatever stands in the secret store."""

        def denied(why: str) -> ReleaseRefused:
            self._on_data_key(held, lambda _: policy.data_key_denied(request, why), request, caller)
            return ReleaseRefused(f"The data key of {request.tenant}", policy.REASONS[why])

        try:
            wrapped = self._secrets.get(data_key_name(request.tenant)).decode("ascii", "replace")
            key = datakey.unwrap(wrapped, tenant=request.tenant, keyring=self.keyring())
        except SecretMissing:
            raise denied("data-key-missing") from None
        except EnvelopeRejected:
            denied("data-key-rejected")
            raise
        if key.id != recorded:
            raise denied("data-key-exchanged")
        return key.to_secret()

    def create_data_key(self, message: CreateDataKey) -> Done:
        """Stored first, recorded afterwards: what an event names exists. A key that no event names seals nothing, so it
        is replaced and never taken over: whoever may write secrets could have put it there."""
        tenant = ids.tenant_id(message.tenant)
        with self._resealing.wrapping:
            held = self._read(self._tenant(tenant))
            if tenants.known(held.state, tenant).data_key is None:
                key = datakey.new_data_key()
                tenants.create_data_key(tenants.known(held.state, tenant), key.id)
                wrapped = datakey.wrap(key, tenant=tenant, key=self.keyring().active)
                put_data_key(self._secrets, tenant, wrapped)
                held.decide(
                    lambda state: tenants.create_data_key(tenants.known(state, tenant), key.id),
                    at=self._clock(),
                    actor=message.actor,
                    cause=message.cause,
                )
            return Done(key=tenants.known(held.state, tenant).data_key or "")

    # vault keys

    def keyring(self) -> Keyring:
        """The keys that the events name. Raises `NotAllowed` without any."""
        return self._keys.keyring()

    def create_vault_key(self, message: CreateVaultKey) -> Done:
        return Done(key=self._keys.create(message.actor, message.cause))

    def vault_keys(self, *, count: bool) -> VaultKeySet:
        versions = self._keys.versions()
        counted = self._resealing.counts() if count else None
        unreadable = counted.unreadable if counted else []
        return VaultKeySet(
            keys=tuple(
                VaultKey(
                    key=key,
                    version=created.version,
                    state=versions.keys.keys[key],
                    custody=created.custody,
                    sealed=None if counted is None else counted.sealed[key],
                )
                for key, created in versions.created.items()
            ),
            unreadable=tuple(unreadable[:MOST_LEFT]),
            unreadable_count=len(unreadable),
        )

    def _health(self) -> Healthy:
        keyring = self.keyring()
        active = keyring.active.thumbprint
        custody = self._keys.versions().created[active].custody
        return Healthy(pid=os.getpid(), active=active, keys=len(keyring.public), custody=custody)

    # what the events say

    def _run(self, run: RunId) -> Held[Run | None, RunEvent]:
        return self._snapshots.held(ids.run_stream(run), runs.evolve, None)

    def _tenant(self, tenant: TenantId) -> Held[Tenant | None, TenantEvent]:
        return self._snapshots.held(ids.tenant_stream(tenant), tenants.evolve, None)

    def _read(self, held: Held[S, E]) -> Held[S, E]:
        self._snapshots.refresh(held)
        return held

    def _holders(self, credential: Credential, asking: RunId) -> list[Run]:
        """The other runs that were given it, as they stand; one that had ended is not read again."""
        held = [self._run(run) for run in {run for run, _, _ in credential.releases} - {asking}]
        if under_way := [one for one in held if one.state is None or one.state.state not in runs.ENDED]:
            self._snapshots.refresh(*under_way)
        return [one.state for one in held if one.state is not None]


def _asker(request: policy.ReleaseRequest | policy.DataKeyRequest, caller: str) -> _Asker:
    """An operator gives any name he likes: the cause is the user that the kernel saw."""
    if request.operator is not None:
        return _Asker(f"operator:{request.operator}", caller)
    return _Asker(ACTOR, request.run or caller)


def _name(request: policy.ReleaseRequest) -> str:
    return f"Credential {request.tenant}:{request.slot}"
