"""What exists in the simulated Microsoft 365: tenants, people, groups, applications and their credentials.

One person is one row here and many on the wire: the Graph user, the Exchange mailbox, the sign-ins and the report
line are all views of the same `Person`, so data collected from different services can be joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from cryptography import x509

GRAPH = "https://graph.microsoft.com"
EXCHANGE = "https://outlook.office365.com"
KEY_VAULT = "https://vault.azure.net"


class SignInState(StrEnum):
    """Why a sign-in with a right secret still fails; `OK` is the one that does not."""

    OK = "ok"
    MFA_REQUIRED = "mfa-required"
    MFA_ENROLMENT = "mfa-enrolment"
    CONDITIONAL_ACCESS = "conditional-access"
    EXTERNAL_CHALLENGE = "external-challenge"
    LOCKED = "locked"
    DISABLED = "disabled"
    PASSWORD_EXPIRED = "password-expired"  # noqa: S105 - a state, not a password


@dataclass(slots=True)
class Person:
    """A member or guest of a tenant. `changed` is the tenant's sequence number at the person's last change."""

    id: str
    given_name: str
    surname: str
    upn: str
    mail: str
    department: str
    job_title: str
    office: str
    city: str
    country: str
    employee_id: str
    guest: bool
    enabled: bool
    created: datetime
    sku_ids: tuple[str, ...]
    proxy_addresses: tuple[str, ...]
    mailbox_guid: str | None
    manager_id: str | None
    last_sign_in: datetime
    mailbox_items: int
    mailbox_bytes: int
    changed: int = 0

    @property
    def display_name(self) -> str:
        return f"{self.given_name} {self.surname}"


@dataclass(slots=True)
class Group:
    """A group with its members and owners, as ids of people. `kind`: `unified`, `security` or `distribution`."""

    id: str
    name: str
    mail: str | None
    kind: str
    created: datetime
    member_ids: set[str]
    owner_ids: tuple[str, ...]
    changed: int = 0
    member_changes: list[tuple[int, str, bool]] = field(default_factory=list)
    """(sequence, person id, added) for each later change of membership."""
    born: int = 0
    """The tenant's sequence number at the group's creation; a delta round from before it gives every member."""


@dataclass(frozen=True, slots=True)
class Sku:
    id: str
    part_number: str
    enabled_units: int


@dataclass(frozen=True, slots=True)
class AppSecret:
    value: str
    expires: datetime


@dataclass(slots=True)
class App:
    """An application known to a tenant. `consented` holds the resources (`GRAPH`, `EXCHANGE`) it may ask tokens for."""

    client_id: str
    name: str
    secrets: list[AppSecret] = field(default_factory=list)
    certificates: list[x509.Certificate] = field(default_factory=list)
    public: bool = False
    consented: set[str] = field(default_factory=lambda: {GRAPH, EXCHANGE})
    state: SignInState = SignInState.OK
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Permissions by resource, where they differ from what a fully consented application gets."""


@dataclass(slots=True)
class Account:
    """A user name and password that can sign in (password grant, or Basic at an Exchange Server)."""

    upn: str
    password: str = field(repr=False)
    state: SignInState = SignInState.OK
    bad_passwords: int = 0
    locked_until: datetime | None = None
    """Set by too many wrong passwords in a row."""


@dataclass(slots=True)
class Tenant:
    """One directory. `sequence` counts its changes; delta links carry it."""

    id: str
    domain: str
    name: str
    seed: int
    created: datetime
    now: datetime
    people: dict[str, Person] = field(default_factory=dict)
    removed_people: dict[str, int] = field(default_factory=dict)
    """id of a deleted person to the sequence of the deletion."""
    groups: dict[str, Group] = field(default_factory=dict)
    removed_groups: dict[str, int] = field(default_factory=dict)
    skus: list[Sku] = field(default_factory=list)
    apps: dict[str, App] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    exchange_server: bool = False
    sequence: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    """Options of the wire, each with a default in the module that reads it."""
    derived: dict[str, tuple[int, Any]] = field(default_factory=dict, repr=False, compare=False)
    """What a module worked out from the rows above, by name, with the sequence for which it is right."""

    @property
    def initial_domain(self) -> str:
        return self.domain.split(".")[0] + ".onmicrosoft.com"


@dataclass(slots=True)
class Fault:
    """One misbehaviour, taken `times` times (None: for ever) after `after` clean answers. `options` are its numbers.

    `taken` counts the requests that met it.
    """

    kind: str
    times: int | None = 1
    after: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    taken: int = 0


@dataclass(slots=True)
class World:
    """Everything there is, and what is switched on to go wrong, by (tenant id or `*`, route name or `*`)."""

    tenants: dict[str, Tenant] = field(default_factory=dict)
    faults: dict[tuple[str, str], list[Fault]] = field(default_factory=dict)
    requests: list[tuple[str, str, str, int]] = field(default_factory=list)
    """(tenant, route name, path, status) of each answered request, for a test to look at; bounded by the server."""
    counters: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """Answered requests by (tenant, route name, status)."""

    def tenant(self, name: str) -> Tenant | None:
        """The tenant with this id, domain or initial domain."""
        key = name.lower()
        if key in self.tenants:
            return self.tenants[key]
        return next((t for t in self.tenants.values() if key in (t.domain, t.initial_domain)), None)

    def take_fault(self, tenant: str, route: str, kinds: Collection[str]) -> Fault | None:
        """The fault that this request of the route meets, counted as taken. `kinds`: what can go wrong with it; any
        other kind is left for a request that it can befall."""
        for key in ((tenant, route), (tenant, "*"), ("*", route), ("*", "*")):
            for fault in self.faults.get(key, ()):
                if fault.after > 0:
                    fault.after -= 1
                    continue
                if fault.kind not in kinds or fault.times == 0:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                fault.taken += 1
                return fault
        return None
