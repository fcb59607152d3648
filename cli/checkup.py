"""What `tenantry doctor` looks at before anybody signs in: one function for each step, each yields what it found."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from uuid import uuid4

import msgspec

from cli.replacement import interrupted
from cli.state import State
from cli.turn import check_authorities
from cli.views import tenants as registered
from collectors.aadsts import CODES, code_of
from collectors.catalog import load_catalog
from crypto.stores import SecretStore
from domain.errors import NotAllowed, TransientError
from domain.settings import Cloud, Settings, without_secrets
from domain.tenant import Tenant

Outcome = Literal["ok", "warning", "failed", "skipped"]

PROBE, PROBED, PROBE_TAGS = "doctor-probe", b"written by tenantry doctor", {"kind": "probe"}
CAN_READ = "THIS IDENTITY CAN READ every sealed credential and data key, and should only be able to set them"
READS_LESS = (
    "Take its role on the vault away: grant secrets/setSecret/action alone, and Key Vault Secrets User on the secrets "
    "event-key and ledger-key (docs/sealing.md). Only the keyholder's identity reads."
)
FEWEST_BYTES = 200 << 20
LOOSE = 0o077


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`subject`: a cloud, a service or a dataset, where a step has several."""

    step: str
    outcome: Outcome
    subject: str = ""
    detail: str = ""
    remedy: str = ""


@dataclass
class Patient:
    """The settings, and the tenant that is looked at, if any is named."""

    settings: Settings
    wanted: str | None

    @cached_property
    def state(self) -> State:
        return State(self.settings)

    @cached_property
    def tenant(self) -> Tenant | None:
        return self.state.tenant(self.wanted) if self.wanted else None

    @cached_property
    def tenants(self) -> list[Tenant]:
        """The tenant, else all that are active."""
        return [self.tenant] if self.tenant else registered(self.state, active=True)

    @cached_property
    def clouds(self) -> dict[str, Cloud]:
        """Those that are in use."""
        names = sorted({one.cloud for one in self.tenants})
        return {name: self.settings.clouds[name] for name in names if name in self.settings.clouds}

    @property
    def opened(self) -> bool:
        return "state" in self.__dict__


def settings(patient: Patient) -> Iterator[Finding]:
    catalog = load_catalog(patient.settings.catalog)
    yield Finding(
        step="settings", outcome="ok", detail=f"{len(catalog)} datasets, {len(patient.settings.clouds)} clouds"
    )


def state_directory(patient: Patient) -> Iterator[Finding]:
    directory = patient.state.directory
    for path in (directory, directory / "keys"):
        if not path.exists():
            continue
        status = path.stat()
        if status.st_mode & LOOSE:
            detail = f"{path} can be entered by others (mode {status.st_mode & 0o777:o})"
            yield Finding(step="state directory", outcome="warning", detail=detail, remedy=f"chmod 700 {path}")
        if status.st_uid != os.getuid():
            detail = f"{path} belongs to user {status.st_uid}, this is user {os.getuid()}"
            yield Finding(step="state directory", outcome="warning", detail=detail, remedy="Run as its owner.")
    for tenant, slot in interrupted(patient.state):
        detail = f"a `tenantry credential set` for the {slot} credential of {tenant} was stopped halfway"
        remedy = f"`tenantry credential verify {tenant}` or `collect` puts the former one back; then set it again."
        yield Finding(step="state directory", outcome="warning", detail=detail, remedy=remedy)
    space = os.statvfs(directory)
    free = space.f_bavail * space.f_frsize
    detail = f"{directory}, {free >> 20:,} MiB free"
    if free < FEWEST_BYTES:
        yield Finding(step="state directory", outcome="warning", detail=detail, remedy="Free some space.")
    else:
        yield Finding(step="state directory", outcome="ok", detail=detail)


def keyholder(patient: Patient) -> Iterator[Finding]:
    healthy = patient.state.keyholder.health()
    keys = f"{healthy.keys} key{'s' if healthy.keys != 1 else ''}"
    detail = f"process {healthy.pid}, {keys}, active {healthy.active}, custody {healthy.custody}"
    yield Finding(step="keyholder", outcome="ok", detail=detail)
    if patient.state.public_key().thumbprint != healthy.active:
        detail = "the published public key is not the active one"
        yield Finding(
            step="keyholder", outcome="failed", detail=detail, remedy="Publish it with `tenantry vault public-key`."
        )


def secret_store(patient: Patient) -> Iterator[Finding]:
    """Writes, reads and deletes a value of its own. In a Key Vault reading should be refused to whoever sets
    credentials; where the secrets are files, whoever writes them reads them. What could not be purged afterwards is
    not deleted: its name would be taken."""
    store, remote = patient.state.secrets, patient.settings.secrets.startswith("https:")
    store.put(PROBE, PROBED, PROBE_TAGS)
    yield Finding(step="secret store", subject="write", outcome="ok", detail=without_secrets(patient.settings.secrets))
    try:
        store.get(PROBE)
    except NotAllowed:
        yield Finding(
            step="secret store", subject="read", outcome="ok", detail="refused to this identity, as it should be"
        )
    else:
        yield Finding(
            step="secret store",
            subject="read",
            outcome="warning" if remote else "ok",
            detail=CAN_READ if remote else "the owner of the files",
            remedy=READS_LESS if remote else "",
        )
    yield from _deletion(store)


def _deletion(store: SecretStore) -> Iterator[Finding]:
    """Tried on a name that never was, then on one that nobody needs again."""
    name = f"{PROBE}-{uuid4().hex}"
    try:
        store.delete(name)
    except NotAllowed:
        detail = "refused to this identity: revoke and offboard with one that may `delete` and `purge`"
        yield Finding(step="secret store", subject="delete", outcome="ok", detail=detail)
        return
    store.put(name, PROBED, PROBE_TAGS)
    kept = store.delete(name)
    if kept is None:
        store.delete(PROBE)
    else:
        detail = "what it deletes can be recovered until the vault's retention ends: it is not purged"
        remedy = "" if kept.why == "purge-protected" else "Grant `purge` to who revokes and offboards."
        yield Finding(step="secret store", subject="delete", outcome="warning", detail=detail, remedy=remedy)


def event_store(patient: Patient) -> Iterator[Finding]:
    last = patient.state.store.last_position()
    for recorded in patient.state.store.follow(max(0, last - 1), 1):
        yield Finding(
            step="event store", outcome="ok", detail=f"{last:,} events, the last at {recorded.at:%Y-%m-%d %H:%M:%SZ}"
        )


def authorities(patient: Patient) -> Iterator[Finding]:
    check_authorities(patient.state, patient.tenants)
    for name, cloud in patient.clouds.items():
        yield Finding(
            step="authorities", subject=name, outcome="ok", detail=cloud.ca_bundle or "public certificate authorities"
        )


def services(patient: Patient) -> Iterator[Finding]:
    """Whether the cloud's hosts answer, and whether its login service knows the tenant."""
    from collectors.egress import answer_of, remedy_for

    for name, cloud in patient.clouds.items():
        for purpose in ("login", "graph", "exchange"):
            host = getattr(cloud, purpose)
            try:
                response = asyncio.run(answer_of(cloud, purpose, patient.tenant.id if patient.tenant else None))
            except TransientError as error:
                yield Finding(
                    step="services",
                    subject=f"{name} {purpose}",
                    outcome="failed",
                    detail=str(error),
                    remedy=remedy_for(error),
                )
                continue
            unknown = unknown_tenant(response.body) if purpose == "login" and response.status != 200 else ""
            yield Finding(
                step="services",
                subject=f"{name} {purpose}",
                outcome="failed" if unknown else "ok",
                detail=unknown or f"{without_secrets(host)} answers",
                remedy=CODES[90002].remedy if unknown else "",
            )


def unknown_tenant(body: bytes) -> str:
    """Why the login service's answer names no tenant."""
    try:
        answer = msgspec.json.decode(body, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "an answer that is none of a login service"
    code = code_of(answer)
    return f"AADSTS{code}: {CODES[code].sentence}" if code in CODES else "an answer that is none of a login service"
