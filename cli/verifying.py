"""Trying credentials from the command line: what is shared by `credential verify`, `credential set` and `doctor`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from typing import Any

from actors.findings import Verification
from actors.plan import datasets_for
from cli.command import FAILED, INCOMPLETE, Session, now, operator_name
from cli.sealing import held_credential
from cli.state import State
from cli.turn import check_authorities, turn
from cli.views import plain
from collectors.aadsts import LASTING
from collectors.catalog import load_catalog
from domain.errors import NotAllowed
from domain.ids import ENTRA, EXCHANGE_SERVER, SLOTS, Slot, new_run_id
from domain.tenant import Tenant
from vault.policy import PURPOSES

PERMISSION_COLUMNS = ("dataset", "resource", "permission", "granted", "licence", "licensed")
RESOURCE_COLUMNS = ("resource", "slot", "outcome", "expires", "permissions", "directory_roles", "why")
MOST_SHOWN = 6


def slots_of(state: State, tenant: Tenant, asked: Slot | None) -> list[Slot]:
    """The slot that was asked for, else those that hold a credential for something to sign in to."""
    if asked == EXCHANGE_SERVER and tenant.exchange_server is None:
        why = f"tenant {tenant.id} declares no Exchange Server"
        raise NotAllowed("verify the credential", why, "Declare it with `tenantry tenant change`.")
    wanted = [asked] if asked else [one for one in SLOTS if one != EXCHANGE_SERVER or tenant.exchange_server]
    found = [one for one in wanted if holds(state, tenant, one)]
    if not found:
        raise NotAllowed("verify the credential", "there is none", "Set one with `tenantry credential set`.")
    return found


def holds(state: State, tenant: Tenant, slot: Slot) -> bool:
    """Whether there is a credential that was not revoked."""
    credential = held_credential(state, tenant.id, slot).state
    return credential is not None and credential.state != "revoked"


def without_credential(state: State, tenant: Tenant) -> list[Slot]:
    """The slots that hold no credential though datasets of the plan are read with it."""
    catalog = load_catalog(state.settings.catalog)
    needed = {catalog[name].workload for name in datasets_for(tenant, catalog, [])}
    return [one for one in SLOTS if needed & PURPOSES[one] and not holds(state, tenant, one)]


def remedy_of(tenant: Tenant, slot: Slot) -> str:
    option = f" --slot {slot}" if slot != ENTRA else ""
    return f"Set one with `tenantry credential set {tenant.id}{option}`."


def verified(state: State, tenant: Tenant, slots: Collection[Slot]) -> Verification:
    """Signs in once to each service. Nobody else here tries a credential meanwhile: raises `NotAllowed` while a
    `tenantry collect` is at work."""
    with turn(state, "verify the credential"):
        return tried(state, tenant, slots)


def tried(state: State, tenant: Tenant, slots: Collection[Slot]) -> Verification:
    """`verified`, for whoever has the turn."""
    from actors.verification import Verifying

    check_authorities(state, [tenant])
    catalog = load_catalog(state.settings.catalog)
    verifying = Verifying(
        store=state.store,
        release=state.keyholder.release,
        cloud=state.settings.clouds[tenant.cloud],
        tenant=tenant,
        plan={name: catalog[name] for name in datasets_for(tenant, catalog, [])},
        id=new_run_id(now(), secrets.randbits(32)),
        operator=operator_name(),
        clock=now,
    )
    return asyncio.run(verifying.verify(slots))


def signs_in(result: Verification) -> bool:
    """Somewhere, and nowhere refused for good."""
    lasting = any(one.outcome == "refused" and one.category in LASTING for one in result.resources)
    return not lasting and any(one.outcome == "verified" for one in result.resources)


def exit_code(result: Verification) -> int:
    """0 when everything of the plan can be read, as far as can be told; 1 when nothing was signed in to."""
    if not any(one.outcome == "verified" for one in result.resources):
        return FAILED
    whole = all(one.outcome == "verified" and one.readable for one in result.resources)
    lacking = any("missing" in (one.granted, one.licensed) for one in result.datasets)
    return 0 if whole and not lacking else INCOMPLETE


def verification_object(
    state: State, tenant: Tenant, result: Verification, untried: Collection[Slot] = ()
) -> dict[str, Any]:
    """For programs: what was found, with the expiry of each credential and the slots that hold none."""
    found = plain(result)
    for row in found["resources"]:
        held = held_credential(state, tenant.id, row["slot"]).state
        row["expires"] = held.expires if held else None
    return {**found, "without_credential": [*untried]}


def show_verification(
    session: Session, state: State, tenant: Tenant, result: Verification, untried: Collection[Slot] = ()
) -> None:
    """`untried`: slots of the plan that hold no credential."""
    found = verification_object(state, tenant, result, untried)
    if session.json:
        session.print_json(found)
        return
    rows = [
        {
            **one,
            "permissions": few(one["permissions"]),
            "directory_roles": few(one["directory_roles"]),
            "why": one["detail"] or one["unreadable"],
        }
        for one in found["resources"]
    ]
    session.show(rows, RESOURCE_COLUMNS, "Nothing to sign in to.")
    if found["datasets"]:
        session.say("")
        lines = [{**one, "licensed": one["licensed"] if one["licence"] else None} for one in found["datasets"]]
        session.show(lines, PERMISSION_COLUMNS, "")
    if found["licences"]:
        session.say(f"Licences: {few(found['licences'])}")
    for slot in untried:
        session.say(f"{slot}: the plan needs a credential here and there is none. {remedy_of(tenant, slot)}", "yellow")
    if any(one["outcome"] == "unavailable" for one in found["resources"]):
        session.say(f"`tenantry doctor {tenant.id}` says whether the network stands in the way.", "yellow")


def few(names: Collection[str]) -> str:
    """The first ones, and how many there are beside them; `--json` has them all."""
    shown = list(names)[:MOST_SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
