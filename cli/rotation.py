"""A credential in the place of another: the new one has to sign in before the old one is given up."""

from __future__ import annotations

from dataclasses import dataclass

from actors.findings import Verification
from cli.sealing import SealedCredential, held_credential, read_back, store_sealed
from cli.state import State
from cli.turn import turn
from cli.verifying import signs_in, tried
from crypto.stores import credential_name
from domain import credential as credentials
from domain.credential import Credential
from domain.errors import PermanentError
from domain.ids import EXCHANGE_SERVER
from domain.tenant import Tenant

COMMAND = "store the credential"


class NotKept(PermanentError):
    """(why it does not sign in, what stands now)"""

    sentence = "The new credential does not sign in: {0} {1} Give --no-verify to store it unseen."


@dataclass(frozen=True)
class Stored:
    """`verification`: what the new one was found to be good for, None when it was not tried."""

    credential: Credential
    verification: Verification | None = None


def stored(state: State, sealed: SealedCredential, *, verify: bool) -> Stored:
    """Stores and records it. One that takes the place of another is tried first, if `verify`: `NotKept` when it does
    not sign in, and the former envelope is back in its place, standing as it stood."""
    tenant = state.tenant(sealed.tenant)
    former = held_credential(state, sealed.tenant, sealed.slot).state
    if not verify or former is None or former.state == "revoked" or not _can_be_tried(tenant, sealed):
        return Stored(store_sealed(state, sealed))
    with turn(state, COMMAND):
        return _exchanged(state, tenant, sealed, former)


def _can_be_tried(tenant: Tenant, sealed: SealedCredential) -> bool:
    """Not where nothing is collected, and not for a server that is not declared."""
    return tenant.state == "active" and (sealed.slot != EXCHANGE_SERVER or tenant.exchange_server is not None)


def _exchanged(state: State, tenant: Tenant, sealed: SealedCredential, former: Credential) -> Stored:
    envelope = read_back(state, credential_name(sealed.tenant, sealed.slot))
    credential = store_sealed(state, sealed)
    if credential.digest == former.digest:
        return Stored(credential)
    try:
        result = tried(state, tenant, [sealed.slot])
    except BaseException:
        _put_back(state, credential, former, envelope)
        raise
    if not signs_in(result):
        stands = _put_back(state, credential, former, envelope)
        raise NotKept(next((one.detail for one in result.resources if one.detail), "nothing was tried."), stands)
    standing = held_credential(state, sealed.tenant, sealed.slot).state
    return Stored(standing or credential, result)


def _put_back(state: State, refused: Credential, former: Credential, envelope: bytes | None) -> str:
    """What stands then. Somebody else's later change is left alone."""
    if not envelope:
        return "The former one cannot be read with this identity, so it could not be put back: the new one stands."
    held = held_credential(state, refused.tenant, refused.slot)
    if held.state is None or held.state.digest != refused.digest:
        return "It has been replaced or resealed meanwhile, and that stands."
    state.secrets.put(credential_name(refused.tenant, refused.slot), envelope)
    state.decide(held, lambda _: credentials.restore(former), "credential set")
    return "The former one stays in use."
