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
from domain.events import RunEvent
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

    What is recorded last says that it is over: killed before that, it is simply done again. Of a tenant that is
    offboarded already, it deletes what has come back, from a backup perhaps. A store that keeps what is deleted (Key
    Vault) is told to purge it, all versions, and says so when it may not.
    """
    cancelled = sum(_cancelled(state, row.run, reason) for row in unfinished(state) if row.tenant == tenant.id)
    for slot in SLOTS:
        held = held_credential(state, tenant.id, slot)
        state.decide(held, lambda found: credentials.revoke(found, reason) if found else [], CAUSE)
    _delete(state, tenant)
    held_tenant = state.tenant_stream(tenant.id)
    if tenant.state != "offboarded":
        state.decide(held_tenant, lambda known: tenants.offboard(tenants.known(known, tenant.id), reason), CAUSE)
        _delete(state, tenant)  # a resealing that was under way may have written something back until now
    return Offboarded(cancelled, _left(state, tenant))


def _cancelled(state: State, run: RunId, reason: str) -> bool:
    held: Held[Run | None, RunEvent] = state.held(run_stream(run), runs.evolve, None)
    if held.state is None:
        raise Unknown("run", run, "See `tenantry run list`.")
    return state.decide(held, lambda found: runs.cancel(found, f"offboarded: {reason}") if found else [], CAUSE)


def _delete(state: State, tenant: Tenant) -> None:
    for slot in SLOTS:
        state.secrets.delete(credential_name(tenant.id, slot))
        forget(state, tenant.id, slot)
    state.secrets.delete(data_key_name(tenant.id))


def _left(state: State, tenant: Tenant) -> list[str] | None:
    try:
        return [name for prefix in ("credential", "datakey") for name in state.secrets.names(f"{prefix}-{tenant.id}")]
    except NotAllowed:
        return None
