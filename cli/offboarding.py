"""The end of a tenant: what opens its data and what signs in to it is destroyed; what happened stays on record."""

from __future__ import annotations

from typing import NamedTuple

from cli.replacement import forget
from cli.sealing import held_credential
from cli.state import State
from cli.views import unfinished
from crypto.stores import credential_name, data_key_name
from domain import credential as credentials
from domain import run as runs
from domain import tenant as tenants
from domain.errors import NotAllowed, Unknown
from domain.events import Retained, RunEvent, TenantEvent
from domain.ids import SLOTS, RunId, run_stream
from domain.run import Run
from domain.tenant import Tenant
from eventstore.streams import Held

CAUSE = "tenant offboard"


class Offboarded(NamedTuple):
    """`cancelled`: runs that were under way. `left`: what the secret store still has, None when this identity may not
    look."""

    cancelled: int
    left: list[str] | None


def offboard(state: State, tenant: Tenant, reason: str) -> Offboarded:
    """Stops its runs, revokes and deletes its credentials, destroys its data key, and records each.

    What is recorded last says that it is over, and what a store that keeps what is deleted (Key Vault) could not be
    made to purge: killed before that, it is simply done again. Of a tenant that is offboarded already, it deletes what
    has come back, from a backup perhaps, purges what may be purged by now, and records what then remains.
    """
    cancelled = sum(_cancelled(state, row.run, reason) for row in unfinished(state) if row.tenant == tenant.id)
    for slot in SLOTS:
        held = held_credential(state, tenant.id, slot)
        state.decide(held, lambda found: credentials.revoke(found, reason) if found else [], CAUSE)
    retained = _deleted(state, tenant)
    held_tenant = state.tenant_stream(tenant.id)
    if tenants.known(held_tenant.state, tenant.id).state != "offboarded":
        state.decide(held_tenant, lambda found: _ended(tenants.known(found, tenant.id), reason, retained), CAUSE)
        retained = _deleted(state, tenant)  # a resealing that was under way may have written something back until now
    state.decide(held_tenant, lambda found: tenants.retain(tenants.known(found, tenant.id), retained), CAUSE)
    return Offboarded(cancelled, _left(state, tenant))


def _ended(tenant: Tenant, reason: str, retained: tuple[Retained, ...]) -> list[TenantEvent]:
    """Nothing when another command was first."""
    return [] if tenant.state == "offboarded" else tenants.offboard(tenant, reason, retained)


def _cancelled(state: State, run: RunId, reason: str) -> bool:
    held: Held[Run | None, RunEvent] = state.held(run_stream(run), runs.evolve, None)
    if held.state is None:
        raise Unknown("run", run, "See `tenantry run list`.")
    return state.decide(held, lambda found: runs.cancel(found, f"offboarded: {reason}") if found else [], CAUSE)


def _deleted(state: State, tenant: Tenant) -> tuple[Retained, ...]:
    """What the store keeps nevertheless."""
    for slot in SLOTS:
        forget(state, tenant.id, slot)
    names = [*(credential_name(tenant.id, slot) for slot in SLOTS), data_key_name(tenant.id)]
    return tuple(kept for name in names if (kept := state.secrets.delete(name)) is not None)


def told(kept: Retained) -> str:
    """A sentence for people."""
    if kept.why == "unseen":
        return f"Whether a deleted {kept.name} is still kept cannot be seen with this identity: it may not purge."
    why = "the vault has purge protection" if kept.why == "purge-protected" else "this identity may not purge"
    until = f"until {kept.until:%Y-%m-%d %H:%M:%SZ}" if kept.until else "until the vault's retention ends"
    return f"Deleted and still recoverable {until}: {kept.name} ({why})."


def _left(state: State, tenant: Tenant) -> list[str] | None:
    try:
        return [name for prefix in ("credential", "datakey") for name in state.secrets.names(f"{prefix}-{tenant.id}")]
    except NotAllowed:
        return None
