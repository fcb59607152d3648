"""A tenant: registered, planned, suspended, offboarded. After offboarding nothing happens to it any more."""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec

from domain.errors import AlreadyExists, NotAllowed, Unknown
from domain.events import (
    DataKeyCreated,
    DataKeyDenied,
    DataKeyDestroyed,
    DataKeyReleased,
    ExchangeServer,
    PlanChanged,
    Retained,
    TenantChanged,
    TenantEvent,
    TenantOffboarded,
    TenantRegistered,
    TenantResumed,
    TenantSuspended,
)
from domain.ids import Dataset, TenantId

DAILY_SECONDS = 24 * 3600
CADENCE_SECONDS = range(60, 366 * DAILY_SECONDS + 1)
"""From a minute to a year."""


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """`datasets` empty: the whole catalog. `data_key`: id of the key that seals its batches, None without one.
    `retained`: deleted secrets of an offboarded tenant that the secret store still keeps."""

    id: TenantId
    name: str
    domain: str
    cloud: str
    exchange_server: ExchangeServer | None = None
    state: Literal["active", "suspended", "offboarded"] = "active"
    reason: str = ""
    datasets: tuple[Dataset, ...] = ()
    cadence_seconds: int = DAILY_SECONDS
    data_key: str | None = None
    retained: tuple[Retained, ...] = ()


def evolve(state: Tenant | None, event: TenantEvent) -> Tenant | None:
    """None for as long as it was not registered: its data key may be denied before that."""
    if isinstance(event, DataKeyDenied):
        return state
    if isinstance(event, TenantRegistered):
        return Tenant(
            id=event.tenant,
            name=event.name,
            domain=event.domain,
            cloud=event.cloud,
            exchange_server=event.exchange_server,
        )
    assert state is not None, "a tenant's stream begins with its registration"  # noqa: S101 - an invariant of the fold
    change = msgspec.structs.replace
    match event:
        case TenantChanged():
            return change(
                state,
                name=event.name,
                domain=event.domain,
                cloud=event.cloud,
                exchange_server=event.exchange_server,
            )
        case PlanChanged():
            return change(state, datasets=event.datasets, cadence_seconds=event.cadence_seconds)
        case TenantSuspended():
            return change(state, state="suspended", reason=event.reason)
        case TenantResumed():
            return change(state, state="active", reason="")
        case DataKeyCreated():
            return change(state, data_key=event.key)
        case DataKeyReleased():
            return state
        case DataKeyDestroyed():
            return change(state, data_key=None)
        case TenantOffboarded():
            return change(state, state="offboarded", reason=event.reason, retained=event.retained)
        case _:
            assert_never(event)


def known(state: Tenant | None, tenant: TenantId) -> Tenant:
    """The tenant; raises `Unknown` when it was never registered."""
    if state is None:
        raise Unknown("tenant", tenant, "Register it with `tenantry tenant add`, or see `tenantry tenant list`.")
    return state


def in_service(state: Tenant, command: str) -> None:
    """Raises `NotAllowed` for an offboarded tenant."""
    if state.state == "offboarded":
        raise NotAllowed(command, f"tenant {state.id} is offboarded", "Nothing happens to it any more.")


def register(state: Tenant | None, event: TenantRegistered) -> list[TenantEvent]:
    """Nothing when the same registration was interrupted before there was a data key. Raises `AlreadyExists`."""
    if state is None:
        return [event]
    same = (state.name, state.domain, state.cloud, state.exchange_server) == (
        *(event.name, event.domain, event.cloud, event.exchange_server),
    )
    if same and state.data_key is None and state.state != "offboarded":
        return []
    raise AlreadyExists("Tenant", state.id, "See `tenantry tenant show`, or `tenantry tenant change`.")


def change(state: Tenant, event: TenantChanged) -> list[TenantEvent]:
    in_service(state, "change the tenant")
    return [] if evolve(state, event) == state else [event]


def plan(state: Tenant, datasets: tuple[Dataset, ...], cadence_seconds: int) -> list[TenantEvent]:
    in_service(state, "change the plan")
    if cadence_seconds not in CADENCE_SECONDS:
        raise NotAllowed(
            "change the plan", f"a cadence of {cadence_seconds} s is out of range", "Use 60 s to 366 days."
        )
    event = PlanChanged(datasets=datasets, cadence_seconds=cadence_seconds)
    return [] if evolve(state, event) == state else [event]


def suspend(state: Tenant, reason: str) -> list[TenantEvent]:
    in_service(state, "suspend the tenant")
    return [] if state.state == "suspended" else [TenantSuspended(reason=reason)]


def resume(state: Tenant) -> list[TenantEvent]:
    in_service(state, "resume the tenant")
    return [] if state.state == "active" else [TenantResumed()]


def create_data_key(state: Tenant, key: str) -> list[TenantEvent]:
    """One data key for the life of the tenant; a second request changes nothing."""
    in_service(state, "create a data key")
    return [] if state.data_key else [DataKeyCreated(key=key)]


def offboard(state: Tenant, reason: str, retained: tuple[Retained, ...] = ()) -> list[TenantEvent]:
    """Destroys the data key: collected batches cannot be opened from then on. `retained`: what of it may come back."""
    in_service(state, "offboard the tenant")
    destroyed: list[TenantEvent] = [DataKeyDestroyed(key=state.data_key)] if state.data_key else []
    return [*destroyed, TenantOffboarded(reason=reason, retained=retained)]


def retain(state: Tenant, retained: tuple[Retained, ...]) -> list[TenantEvent]:
    """Of an offboarded tenant: what is still kept, if that is not what is on record. A date that this look did not see
    stays known."""
    if state.state != "offboarded":
        raise NotAllowed("record what is retained", f"tenant {state.id} is not offboarded", "Offboard it first.")
    known = {one.name: one for one in state.retained}
    still = tuple(known.get(one.name, one) if one.until is None else one for one in retained)
    return [] if still == state.retained else [TenantOffboarded(reason=state.reason, retained=still)]


def may_run(state: Tenant) -> None:
    """Raises `NotAllowed` unless collections of this tenant may start."""
    in_service(state, "collect")
    if state.state == "suspended":
        raise NotAllowed(
            "collect", f"tenant {state.id} is suspended ({state.reason})", "Use `tenantry tenant resume` first."
        )
