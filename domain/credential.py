"""A credential of a tenant: sealed, used, rejected, rotated, revoked. Its secret part is never here."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, assert_never

import msgspec

from domain.events import (
    CredentialEvent,
    CredentialExpiring,
    CredentialKind,
    CredentialRejected,
    CredentialReleased,
    CredentialResealed,
    CredentialRevoked,
    CredentialRotated,
    CredentialSealed,
    CredentialVerified,
    ReleaseDenied,
)
from domain.ids import RunId, Slot, TenantId

FOR_ALL = frozenset({"permanent-credential", "locked", "tenant-gone"})
"""Categories of a refusal that holds for every service alike; another one is that of the service that was asked."""


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """`digest`: SHA-256 of the stored envelope. `refusals`: those that last, one for each service that it was refused
    for. `lockout`: the refusal that passes by itself, with its end. `announced`: the expiry that was last forecast."""

    tenant: TenantId
    slot: Slot
    kind: CredentialKind
    identity: str
    vault_key: str
    digest: str
    expires: datetime | None
    state: Literal["sealed", "verified", "rejected", "revoked"] = "sealed"
    refusals: tuple[CredentialRejected, ...] = ()
    lockout: CredentialRejected | None = None
    announced: datetime | None = None
    releases: tuple[tuple[RunId, str, int], ...] = ()
    """(run, activation, count) of the latest activations, newest last; at most eight are remembered."""
    outdated: tuple[RunId, ...] = ()
    """Runs that hold a former envelope and not the present one: what a service says of theirs is not said of this."""


REMEMBERED_ACTIVATIONS = 8


def _count_release(
    releases: tuple[tuple[RunId, str, int], ...], run: RunId, activation: str
) -> tuple[tuple[RunId, str, int], ...]:
    before = sum(n for r, a, n in releases if (r, a) == (run, activation))
    others = tuple(entry for entry in releases if entry[:2] != (run, activation))
    return (*others, (run, activation, before + 1))[-REMEMBERED_ACTIVATIONS:]


def _outdated(state: Credential | None) -> tuple[RunId, ...]:
    """Everybody who has the envelope that is being replaced."""
    if state is None:
        return ()
    return tuple(dict.fromkeys((*state.outdated, *(run for run, _, _ in state.releases))))[-REMEMBERED_ACTIVATIONS:]


def _lockout(state: Credential | None, identity: str) -> CredentialRejected | None:
    """The service locks the account, whatever password it is tried with and however its name is spelt."""
    if state is None or state.identity.casefold() != identity.casefold():
        return None
    return state.lockout


def _survives(refusal: CredentialRejected, event: CredentialVerified) -> bool:
    """Whether another service may go on refusing what this one took."""
    return refusal.category not in FOR_ALL and refusal.resource != event.resource


def _later(lockout: CredentialRejected | None, event: CredentialRejected) -> CredentialRejected:
    """The one that ends last."""
    if lockout is None or lockout.until is None or event.until is None or lockout.until <= event.until:
        return event
    return lockout


def evolve(state: Credential | None, event: CredentialEvent) -> Credential | None:
    """None for as long as nothing was sealed: a release may be denied before that."""
    if isinstance(event, CredentialSealed):
        return Credential(
            tenant=event.tenant,
            slot=event.slot,
            kind=event.kind,
            identity=event.identity,
            vault_key=event.vault_key,
            digest=event.digest,
            expires=event.expires,
            lockout=_lockout(state, event.identity),
            outdated=_outdated(state),
        )
    if state is None:
        return None
    change = msgspec.structs.replace
    match event:
        case CredentialRotated():
            return change(
                state,
                kind=event.kind,
                identity=event.identity,
                vault_key=event.vault_key,
                digest=event.digest,
                expires=event.expires,
                state="verified" if event.verified is True else "sealed",
                refusals=(),
                lockout=_lockout(state, event.identity),
                announced=None,
                releases=(),
                outdated=_outdated(state),
            )
        case CredentialVerified():
            left = tuple(one for one in state.refusals if _survives(one, event))
            return change(state, state="rejected" if left else "verified", refusals=left, lockout=None)
        case CredentialRejected():
            if event.permanent:
                others = tuple(one for one in state.refusals if one.resource != event.resource)
                return change(state, state="rejected", refusals=(*others, event))
            return change(state, lockout=_later(state.lockout, event)) if event.until else state
        case CredentialReleased():
            return change(
                state,
                releases=_count_release(state.releases, event.run, event.activation),
                outdated=tuple(run for run in state.outdated if run != event.run),
            )
        case CredentialResealed():
            return change(state, vault_key=event.vault_key, digest=event.digest)
        case CredentialRevoked():
            return change(state, state="revoked")
        case CredentialExpiring():
            return change(state, announced=event.expires)
        case ReleaseDenied():
            return state
        case _:
            assert_never(event)


def seal(state: Credential | None, event: CredentialSealed) -> list[CredentialEvent]:
    """The first envelope seals the credential, a different one later rotates it, the same one again changes nothing."""
    if state is None or state.state == "revoked":
        return [event]
    if state.digest == event.digest:
        return []
    return [
        CredentialRotated(
            kind=event.kind,
            identity=event.identity,
            vault_key=event.vault_key,
            digest=event.digest,
            expires=event.expires,
        )
    ]


def verified(state: Credential, run: RunId | None, resource: str) -> list[CredentialEvent]:
    """Recorded when the standing changes, not at every sign-in: releases are the record of use."""
    event = CredentialVerified(run=run, resource=resource)
    if state.state == "revoked" or run in state.outdated or evolve(state, event) == state:
        return []
    return [event]


def confirmed(state: Credential, verification: RunId, resource: str) -> list[CredentialEvent]:
    """Recorded whatever stood before: an operator asked. Nothing when it was revoked or replaced meanwhile."""
    if state.state == "revoked" or verification in state.outdated:
        return []
    return [CredentialVerified(run=verification, resource=resource)]


def rejected(state: Credential, event: CredentialRejected) -> list[CredentialEvent]:
    """Nothing when it is revoked, or when the run was refused with an envelope that has been replaced since."""
    return [] if state.state == "revoked" or event.run in state.outdated else [event]


def lasting(state: Credential, purpose: str) -> CredentialRejected | None:
    """The refusal for which it is not used for this purpose until it changes or is verified."""
    return next((one for one in state.refusals if one.category in FOR_ALL or one.resource == purpose), None)


def locked(state: Credential, now: datetime) -> CredentialRejected | None:
    """The refusal for which nobody gets it before the lockout ends."""
    until = state.lockout.until if state.lockout else None
    return state.lockout if until is not None and now < until else None


def hindrance(state: Credential, now: datetime, purpose: str) -> CredentialRejected | None:
    """The refusal for which no run gets it now: first the one that keeps it from everybody."""
    return locked(state, now) or lasting(state, purpose)


def restore(former: Credential) -> list[CredentialEvent]:
    """Back to the envelope that stood before, as it stood: what was refused is not tried again for having been away."""
    facts = CredentialRotated(
        kind=former.kind,
        identity=former.identity,
        vault_key=former.vault_key,
        digest=former.digest,
        expires=former.expires,
        verified=True if former.state == "verified" else msgspec.UNSET,
    )
    return [facts, *([former.lockout] if former.lockout else []), *former.refusals]


def revoke(state: Credential, reason: str) -> list[CredentialEvent]:
    return [] if state.state == "revoked" else [CredentialRevoked(reason=reason)]


def forecast(state: Credential, now: datetime, ahead: timedelta) -> list[CredentialEvent]:
    """`CredentialExpiring` when it expires within `ahead`, once for each expiry."""
    if state.expires is None or state.state == "revoked" or state.expires - now > ahead:
        return []
    if state.announced == state.expires:
        return []
    return [CredentialExpiring(expires=state.expires)]
