"""A credential in the place of another: the new one has to sign in before the old one is given up."""

from __future__ import annotations

from dataclasses import dataclass

from actors.findings import Verification
from cli.replacement import keeping
from cli.sealing import (
    NotRecorded,
    SealedCredential,
    held_credential,
    not_recorded,
    placed,
    recordable,
    store_sealed,
)
from cli.state import State
from cli.turn import turn
from cli.verifying import signs_in, tried
from domain.credential import Credential
from domain.errors import PermanentError
from domain.events import CredentialSealed
from domain.ids import EXCHANGE_SERVER
from domain.tenant import Tenant

COMMAND = "store the credential"


class NotKept(PermanentError):
    """(why it does not sign in, what stands now)"""

    sentence = "The new credential does not sign in: {0} {1} Give --no-verify to store it unseen."


@dataclass(frozen=True)
class Stored:
    """`verification`: what the new one was found to be good for, None when it was not tried. `changed`: it was not the
    one that is stored already."""

    credential: Credential
    verification: Verification | None = None
    changed: bool = True


def stored(state: State, sealed: SealedCredential, *, verify: bool) -> Stored:
    """Stores and records it. One that takes the place of another is tried first, if `verify`: `NotKept` when it does
    not sign in, and the former envelope is back in its place, standing as it stood."""
    tenant = state.tenant(sealed.tenant)
    former = held_credential(state, sealed.tenant, sealed.slot).state
    if not verify or former is None or former.state == "revoked" or not _can_be_tried(tenant, sealed):
        return Stored(store_sealed(state, sealed), changed=not _is_stored(former, sealed.digest))
    event = recordable(state, sealed)
    with turn(state, COMMAND):
        return _exchanged(state, tenant, sealed, event)


def _is_stored(former: Credential | None, digest: str) -> bool:
    return former is not None and former.state != "revoked" and former.digest == digest


def _can_be_tried(tenant: Tenant, sealed: SealedCredential) -> bool:
    """Not where nothing is collected, and not for a server that is not declared."""
    return tenant.state == "active" and (sealed.slot != EXCHANGE_SERVER or tenant.exchange_server is not None)


def _exchanged(state: State, tenant: Tenant, sealed: SealedCredential, event: CredentialSealed) -> Stored:
    former = held_credential(state, sealed.tenant, sealed.slot).state
    if _is_stored(former, event.digest):
        return Stored(store_sealed(state, sealed), changed=False)
    try:
        with keeping(state, sealed.tenant, sealed.slot, event.digest, tried=True) as kept:
            placed(state, sealed, event)
            result = tried(state, tenant, [sealed.slot])
    except NotRecorded as failure:
        raise not_recorded(failure, kept) from failure.__cause__
    if not signs_in(result):
        why = next((one.detail for one in result.resources if one.detail), "nothing was tried.")
        raise NotKept(why, kept.told)
    standing = held_credential(state, sealed.tenant, sealed.slot).state
    if standing is None:
        raise AssertionError("a sealed credential has a state")
    return Stored(standing, result)
