"""`tenantry doctor`: which step on the way to a tenant's data fails, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, NamedTuple

import typer

from actors.findings import Verification
from actors.plan import datasets_for
from cli import checkup
from cli.checkup import Finding, Patient
from cli.command import FAILED, INCOMPLETE, Session, flag
from cli.forecast import AHEAD, days_left
from cli.sealing import held_credential
from cli.state import closed
from cli.verifying import remedy_of, slots_of, verified, without_credential
from cli.views import plain
from collectors.catalog import load_catalog
from collectors.dataset import Workload
from domain.errors import NotAllowed, TenantryError
from domain.ids import ENTRA, tenant_id
from domain.tenant import Tenant, may_run

MARKS = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "·"}
STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
CATEGORIES = {"policy": "MFA and Conditional Access", "consent": "consent", "tenant-gone": "services"}
"""The step that a refusal of this category belongs to; `sign-in` for the others."""
PASSWORDS_END = (
    "Microsoft is retiring sign-in with passwords (its Exchange module from July 2026); MFA forbids it.",
    "Use an app registration with a certificate: `tenantry credential set --kind app-certificate`.",
)


class Step(NamedTuple):
    """`needs`: what must not have failed before. `of_tenant`: only when one is named."""

    name: str
    needs: tuple[str, ...]
    look: Callable[[Patient], Iterator[Finding]]
    of_tenant: bool = False


def doctor(
    session: Session,
    tenant: Annotated[str | None, typer.Argument(metavar="TENANT", help="Directory id; signs in to it, once.")] = None,
    egress: Annotated[bool, flag("--egress", help="Only list hosts and ports to allow, and the address used.")] = False,
) -> None:
    """Say which step fails: settings, state, keyholder, stores, services; with TENANT also sign-in and permissions.

    With TENANT it signs in once to each service of the plan, on record. Exit code 1 when a step failed, 3 when one
    needs attention.

    Example: `tenantry doctor TENANT --json`
    """
    patient = Patient(session.settings, tenant_id(tenant) if tenant else None)
    session.closing.push(partial(_closed, session, patient))
    if egress:
        session.show(allowed(patient), ("cloud", "host", "port", "purpose"), "No tenant, nothing to allow.")
        session.say(address(patient))
        return
    found: list[Finding] = []
    for one in examined(patient):
        found.append(one)
        if not session.json:
            show(session, one)
    if session.json:
        session.print_json([plain(one) for one in found])
    outcomes = {one.outcome for one in found}
    if "failed" in outcomes:
        raise typer.Exit(FAILED)
    if "warning" in outcomes:
        raise typer.Exit(INCOMPLETE)


def show(session: Session, found: Finding) -> None:
    subject = f" {found.subject}" if found.subject else ""
    detail = f": {found.detail}" if found.detail else ""
    session.say(f"{MARKS[found.outcome]} {found.step}{subject}{detail}", STYLES[found.outcome])
    if found.remedy:
        session.say(f"    {found.remedy}")


def examined(patient: Patient) -> Iterator[Finding]:
    """Each step in turn; one whose ground is missing is skipped. What a step raises is what it found."""
    failed: set[str] = set()
    for step in (one for one in STEPS if patient.wanted or not one.of_tenant):
        missing = failed & {*step.needs}
        if missing:
            failed.add(step.name)
            yield Finding(step=step.name, outcome="skipped", detail=f"{sorted(missing)[0]} failed")
            continue
        try:
            for found in step.look(patient):
                if found.outcome == "failed":
                    failed.add(step.name)
                yield found
        except TenantryError as error:
            failed.add(step.name)
            yield Finding(step=step.name, outcome="failed", detail=str(error))


def registration(patient: Patient) -> Iterator[Finding]:
    tenant = _tenant(patient)
    may_run(tenant)
    yield Finding(step="tenant", outcome="ok", detail=f"{tenant.name}, {tenant.domain}, cloud {tenant.cloud}")


def credentials(patient: Patient) -> Iterator[Finding]:
    tenant = _tenant(patient)
    slots = slots_of(patient.state, tenant, None)
    for slot in without_credential(patient.state, tenant):
        remedy, detail = remedy_of(tenant, slot), "none, and the plan has datasets that are read with it"
        yield Finding(step="credential", subject=slot, outcome="warning", detail=detail, remedy=remedy)
    for slot in slots:
        held = held_credential(patient.state, tenant.id, slot).state
        if held is None:
            continue
        left = days_left(held.expires)
        near = left is not None and left <= AHEAD.days
        yield Finding(
            step="credential",
            subject=slot,
            outcome="ok" if not near else "warning",
            detail=f"{held.kind} of {held.identity}" + ("" if left is None else f", {left} days left"),
            remedy="Replace it with `tenantry credential set`." if near else "",
        )
        if held.kind == "service-account" and slot == ENTRA:
            detail, remedy = PASSWORDS_END
            yield Finding(step="credential", subject=slot, outcome="warning", detail=detail, remedy=remedy)


def sign_in(patient: Patient) -> Iterator[Finding]:
    tenant = _tenant(patient)
    try:
        result = verified(patient.state, tenant, slots_of(patient.state, tenant, None))
    except NotAllowed as busy:
        yield Finding(step="sign-in", outcome="warning", detail=str(busy))
        return
    yield from services_found(patient, result)
    yield from datasets_found(result)


def services_found(patient: Patient, result: Verification) -> Iterator[Finding]:
    """One for each service: signed in and answered, or why not; with the address that a policy would have to name."""
    for one in result.resources:
        if one.outcome == "unavailable" or (one.outcome == "verified" and one.readable is None):
            detail = one.detail or one.unreadable
            yield Finding(
                step="services", subject=one.resource, outcome="failed", detail=detail, remedy="Try again later."
            )
        elif one.outcome != "verified":
            policy = one.category == "policy"
            yield Finding(
                step=CATEGORIES.get(one.category, "sign-in"),
                subject=one.resource,
                outcome="failed",
                detail=one.detail,
                remedy=address(patient) if policy else "",
            )
        elif one.unreadable:
            yield Finding(step="roles", subject=one.resource, outcome="warning", detail=one.unreadable)
        else:
            roles = f" as {', '.join(one.directory_roles)}" if one.directory_roles else ""
            count = len(one.permissions)
            detail = f"{count} permission{'s' if count != 1 else ''}{roles}" if count else "answers"
            yield Finding(step="sign-in", subject=one.resource, outcome="ok", detail=detail)


def datasets_found(result: Verification) -> Iterator[Finding]:
    for one in result.datasets:
        if one.granted == "missing":
            yield _lacking("permission", one.dataset, one.permission, "Grant it, and consent as administrator")
        if one.licensed == "missing":
            yield _lacking("licence", one.dataset, one.licence, "Add the licence")
    whole = [one for one in result.datasets if "missing" not in (one.granted, one.licensed)]
    if whole:
        detail = f"nothing is known to be missing for {len(whole)} of {len(result.datasets)} datasets"
        yield Finding(step="permission", outcome="ok", detail=detail)


def _lacking(step: str, dataset: str, what: str, how: str) -> Finding:
    remedy = f"{how}, or take the dataset out of the plan."
    return Finding(step=step, subject=dataset, outcome="warning", detail=f"needs {what}", remedy=remedy)


def allowed(patient: Patient) -> list[dict[str, Any]]:
    """Hosts and ports of the tenant, or of all active ones."""
    from collectors.egress import Destination, destinations, key_vaults, source_address

    catalog = load_catalog(patient.settings.catalog)
    tenant = patient.tenant
    names = datasets_for(tenant, catalog, []) if tenant else tuple(catalog)
    workloads: set[Workload] = {catalog[name].workload for name in names}
    of_tenants: list[tuple[str | None, Destination]] = [
        (name, place)
        for name, cloud in patient.clouds.items()
        for one in patient.tenants
        if one.cloud == name
        for place in destinations(cloud, workloads, one.exchange_server)
    ]
    places = dict.fromkeys([*of_tenants, *((None, place) for place in key_vaults(patient.settings))])
    return [
        {
            "cloud": name,
            **one._asdict(),
            "from": None if "*" in one.host else source_address(one.host, one.port),
        }
        for name, one in places
    ]


def address(patient: Patient) -> str:
    from collectors.egress import address_hint, destinations

    for cloud in patient.clouds.values():
        login = destinations(cloud, ["graph"], None)[0]
        return address_hint(login.host, login.port)
    return ""


def _closed(session: Session, patient: Patient, *leaving: Any) -> None:
    if patient.opened:
        closed(session, patient.state, *leaving)


def _tenant(patient: Patient) -> Tenant:
    if patient.tenant is None:
        raise AssertionError("these steps are for a tenant")
    return patient.tenant


STEPS = (
    Step("settings", (), checkup.settings),
    Step("state directory", ("settings",), checkup.state_directory),
    Step("secret store", ("state directory",), checkup.secret_store),
    Step("event store", ("secret store",), checkup.event_store),
    Step("keyholder", ("event store",), checkup.keyholder),
    Step("tenant", ("event store",), registration, of_tenant=True),
    Step("credential", ("tenant",), credentials, of_tenant=True),
    Step("authorities", ("event store", "tenant"), checkup.authorities),
    Step("services", ("authorities",), checkup.services),
    Step("sign-in", ("credential", "keyholder", "services"), sign_in, of_tenant=True),
)
"""In order. The event key is in the secret store, so that comes before the event store."""
