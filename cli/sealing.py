"""Credentials on their way in: sealed, stored and recorded."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from cli.replacement import Keeping, keeping
from cli.state import State
from crypto import credential as payloads
from crypto import envelope
from crypto.keyring import VaultPublicKey
from crypto.stores import credential_name
from domain import credential as credentials
from domain import tenant as tenants
from domain.credential import Credential
from domain.errors import Malformed, NotAllowed, TenantryError, TransientError, Unreadable
from domain.events import CredentialEvent, CredentialKind, CredentialSealed
from domain.ids import Slot, TenantId, credential_stream
from eventstore.streams import Held
from vault.policy import digest_of

MAX_IDENTITY = 256


class NotRecorded(TransientError):
    """(why, what stands now)"""

    sentence = "The credential could not be recorded, so it does not count: {0} {1}"


class SealedCredential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `seal` writes and `put` reads: the envelope, and what may be known of it. No secret.

    `digest`: SHA-256 of the envelope's text, in lower-case hex. It tells what was cut or changed on the way by
    accident; whoever changes it on purpose writes another one. Only opening shows what is genuine.
    """

    tenant: TenantId
    slot: Slot
    kind: CredentialKind
    identity: str
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None
    envelope: str
    digest: str


def make(tenant: TenantId, which: Slot, key: VaultPublicKey, payload: payloads.Payload) -> SealedCredential:
    with payloads.encode(payload) as secret:
        sealed = envelope.seal(secret, tenant=tenant, slot=which, key=key)
    return SealedCredential(
        tenant=tenant,
        slot=which,
        kind=payloads.kind_of(payload),
        identity=payloads.identity_of(payload),
        expires=payloads.expires_of(payload),
        envelope=sealed,
        digest=digest_of(sealed.encode()),
    )


def parse_sealed(text: str, path: Path) -> SealedCredential:
    """What `seal` wrote. Raises `Unreadable`, and `Malformed` for an identity or a time that could not be shown."""
    try:
        sealed = msgspec.json.decode(text, type=SealedCredential)
    except msgspec.DecodeError as error:
        remedy = "Make it with `tenantry credential seal`."
        raise Unreadable("sealed credential", str(path), str(error), remedy) from error
    if sealed.digest != digest_of(sealed.envelope.encode()):
        remedy = "Fetch it again, or make it anew with `tenantry credential seal`."
        raise Unreadable("sealed credential", str(path), "its envelope was cut or changed on the way", remedy)
    if not 0 < len(sealed.identity) <= MAX_IDENTITY or not sealed.identity.isprintable():
        raise Malformed("identity", sealed.identity[:40], f"1 to {MAX_IDENTITY} printable characters")
    return msgspec.structs.replace(sealed, expires=sealed.expires and _in_utc(sealed.expires))


def _in_utc(expires: datetime) -> datetime:
    try:
        return expires.astimezone(UTC)
    except OverflowError:
        raise Malformed("time of expiry", expires.isoformat(), "one of the years 1 to 9999 in UTC") from None


def store_sealed(state: State, sealed: SealedCredential) -> Credential:
    """Stores the envelope and records it. When it cannot be recorded, the former envelope is put back: `NotRecorded`.

    Raises `EnvelopeRejected`, `Malformed` or `NotAllowed` for an envelope that the vault would not open.
    """
    event = recordable(state, sealed)
    try:
        with keeping(state, sealed.tenant, sealed.slot, event.digest, tried=False) as kept:
            return placed(state, sealed, event)
    except NotRecorded as failure:
        raise not_recorded(failure, kept) from failure.__cause__


def not_recorded(failure: NotRecorded, kept: Keeping) -> NotRecorded:
    """The same, with what stands now."""
    stands = kept.told if kept.end else "Until it is recorded, the tenant's runs are refused."
    return NotRecorded(failure.args[0], f"{stands} Do this again when the event store is back.")


def recordable(state: State, sealed: SealedCredential) -> CredentialSealed:
    """What is to be recorded of it. Raises what `store_sealed` raises."""
    header = envelope.read_header(sealed.envelope)
    active = state.public_key().thumbprint
    if (header.tenant, header.slot) != (sealed.tenant, sealed.slot):
        raise Malformed("sealed credential", f"{sealed.tenant}/{sealed.slot}", "the tenant and slot of its envelope")
    if header.kid != active:
        raise NotAllowed(
            "store the credential",
            f"it is sealed to key {header.kid}, the vault's key is {active}",
            "Get that with `tenantry vault public-key` and seal it again.",
        )
    tenants.in_service(state.tenant(sealed.tenant), "store the credential")
    return CredentialSealed(
        tenant=sealed.tenant,
        slot=sealed.slot,
        kind=sealed.kind,
        identity=sealed.identity,
        vault_key=header.kid,
        digest=sealed.digest,
        expires=sealed.expires,
    )


def placed(state: State, sealed: SealedCredential, event: CredentialSealed) -> Credential:
    """Stored, then recorded. What was there before is the caller's."""
    held = held_credential(state, sealed.tenant, sealed.slot)
    state.secrets.put(credential_name(sealed.tenant, sealed.slot), sealed.envelope.encode())
    try:
        state.decide(held, lambda found: credentials.seal(found, event), "credential set")
    except TenantryError as error:
        raise NotRecorded(str(error), "") from error
    if held.state is None:
        raise AssertionError("a sealed credential has a state")
    _of_a_tenant_in_service(state, held.state)
    return held.state


def _of_a_tenant_in_service(state: State, stored: Credential) -> None:
    """Undoes it and raises `NotAllowed` when the tenant was offboarded after it was looked at."""
    tenant = state.tenant(stored.tenant)
    if tenant.state == "offboarded":
        held = held_credential(state, stored.tenant, stored.slot)
        reason = f"offboarded: {tenant.reason}"
        state.decide(held, lambda found: credentials.revoke(found, reason) if found else [], "credential set")
        state.secrets.delete(credential_name(stored.tenant, stored.slot))
        tenants.in_service(tenant, "store the credential")


def held_credential(state: State, tenant: TenantId, which: Slot) -> Held[Credential | None, CredentialEvent]:
    return state.held(credential_stream(tenant, which), credentials.evolve, None)
