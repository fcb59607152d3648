"""Credentials that expire soon: shown, and put on record once for each expiry."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from cli.command import now
from cli.sealing import held_credential
from cli.state import State
from cli.views import views
from domain import credential as credentials
from domain.credential import Credential
from domain.ids import TenantId

AHEAD = timedelta(days=30)
"""How long before an expiry it is announced: time enough to get a new one from somebody else."""


def known(state: State) -> list[Credential]:
    """Every credential of every tenant, in order of tenant and slot."""
    with views(state) as current:
        return [one for row in current.fleet.rows() for _, one in sorted(row.credentials.items())]


def expiring(state: State, ahead: timedelta) -> list[Credential]:
    """Those in use that expire within `ahead` or have expired, the next one first."""
    limit = now() + ahead
    found = [one for one in known(state) if one.state != "revoked" and one.expires is not None and one.expires <= limit]
    return sorted(found, key=lambda one: (one.expires or limit, one.tenant, one.slot))


def announce(state: State, tenants: Collection[TenantId], cause: str) -> list[Credential]:
    """Appends `CredentialExpiring` for those that expire soon and were not announced before; which ones."""
    announced = []
    for one in expiring(state, AHEAD):
        if one.tenant not in tenants:
            continue
        held = held_credential(state, one.tenant, one.slot)
        if state.decide(held, lambda found: credentials.forecast(found, now(), AHEAD) if found else [], cause):
            announced.append(one)
    return announced


def days_left(expires: datetime | None) -> int | None:
    """Whole days; negative when it has expired."""
    return None if expires is None else (expires - now()) // timedelta(days=1)


def credential_object(one: Credential) -> dict[str, Any]:
    """The JSON form of a listed credential."""
    refusal = one.refusals[-1] if one.refusals else credentials.locked(one, now())
    code = f"AADSTS{refusal.code} ({refusal.category})" if refusal and refusal.code else None
    return {
        "tenant": one.tenant,
        "slot": one.slot,
        "kind": one.kind,
        "identity": one.identity,
        "state": one.state,
        "expires": one.expires,
        "days_left": days_left(one.expires),
        "why": code or (refusal.category if refusal else None),
    }
