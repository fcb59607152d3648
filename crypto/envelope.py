"""A sealed credential: made by anyone with the vault's public key, opened by the keyholder only."""

from __future__ import annotations

import msgspec

from crypto import jwe
from crypto.keyring import Keyring, VaultPublicKey
from crypto.secret import Secret
from domain.errors import EnvelopeRejected, Malformed
from domain.ids import Slot, TenantId
from domain.ids import slot as checked_slot
from domain.ids import tenant_id as checked_tenant

TYP = "tenantry-credential+jwe"


class EnvelopeHeader(msgspec.Struct, frozen=True):
    """What an envelope says about itself. `kid`: thumbprint of the vault key it is sealed to."""

    kid: str
    tenant: TenantId
    slot: Slot
    enc: str


def seal(payload: Secret, *, tenant: TenantId, slot: str, key: VaultPublicKey, cbc: bool = False) -> str:
    """A compact JWE. `cbc`: with A256CBC-HS512 instead of A256GCM. Raises `Malformed` for a payload over 16 KiB."""
    return jwe.seal(payload, typ=TYP, tid=checked_tenant(tenant), slot=checked_slot(slot), key=key, cbc=cbc)


def open_(envelope: str, *, tenant: TenantId, slot: str, keyring: Keyring) -> Secret:
    """Raises `EnvelopeRejected` for everything but an untouched envelope of this tenant and slot."""
    return jwe.open_(envelope, typ=TYP, tid=tenant, slot=slot, keyring=keyring)


def read_header(envelope: str) -> EnvelopeHeader:
    """Needs no key and proves nothing: only `open_` knows whether the header is genuine. Raises `EnvelopeRejected`."""
    header = jwe.read(envelope, TYP)
    try:
        tenant, slot = checked_tenant(header.tid), checked_slot(header.slot)
    except Malformed:
        raise EnvelopeRejected("its tid is no tenant or its slot no slot") from None
    if tenant != header.tid:
        raise EnvelopeRejected("its tid is not in lower case")
    return EnvelopeHeader(kid=header.kid, tenant=tenant, slot=slot, enc=header.enc)
