"""What a sign-in is allowed, and whether that is enough for a dataset: tables, and claims that are read without trust.

An access token is for the service alone to judge. What stands in it is shown to people; nothing is decided by it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from collectors.dataset import Dataset

Granted = Literal["granted", "missing", "unknown"]

MOST_NAMES = 500
_DIRECTORY = ("Directory.Read.All", "Directory.ReadWrite.All")
COVERED_BY: Mapping[str, tuple[str, ...]] = {
    "Organization.Read.All": _DIRECTORY,
    "User.Read.All": _DIRECTORY,
    "Group.Read.All": _DIRECTORY,
    "GroupMember.Read.All": ("Group.Read.All", "Group.ReadWrite.All", *_DIRECTORY),
    "LicenseAssignment.Read.All": ("Organization.Read.All", "Organization.ReadWrite.All", *_DIRECTORY),
}
"""Graph permissions that include another, beside its own ReadWrite form (Microsoft Graph permissions reference: the
higher privileged permissions of each endpoint in our catalog)."""

EXCHANGE_PERMISSIONS = frozenset({"Exchange.ManageAsApp", "Exchange.Manage"})
"""Of an application, and of a user. What cmdlets there are then depends on the directory role."""
DIRECTORY_ROLES: Mapping[str, str] = {
    "f2ef992c-3afb-46b9-b7cf-a126ee74c451": "Global Reader",
    "62e90394-69f5-4237-9190-012177145e10": "Global Administrator",
    "29232cdf-9323-42fd-ade2-1d097af3e4de": "Exchange Administrator",
    "31392ffb-586c-42d1-9346-e59415a2cc4e": "Exchange Recipient Administrator",
    "5d6b6bb7-de71-4623-b4af-96380a352509": "Security Reader",
    "194ae4cb-b126-40b2-bd5b-6091b380977d": "Security Administrator",
    "17315797-102d-40b4-93e0-432062caca18": "Compliance Administrator",
    "88d8e3e3-8f55-4a1e-953a-9b9898b8876b": "Directory Readers",
    "4a5d8f65-41da-4de4-8968-e035b65339cf": "Reports Reader",
}
"""Template ids in the `wids` claim (Microsoft Entra built-in roles)."""

LICENCES: Mapping[str, tuple[str, ...]] = {
    "Microsoft Entra ID P1": ("AAD_PREMIUM*", "SPE_*", "EMS*", "SPB"),
    "Exchange Online": ("EXCHANGE_*", "SPE_*", "ENTERPRISEP*", "STANDARDPACK", "O365_BUSINESS_*", "SPB"),
}
"""Names of service plans and of the products that have them (product names and service plan identifiers for licensing,
learn.microsoft.com/entra/identity/users/licensing-service-plan-reference)."""


class Claims(msgspec.Struct, frozen=True):
    """`roles`: an application's permissions; `scp`: a user's, with blanks between; `wids`: directory roles."""

    roles: tuple[str, ...] = ()
    scp: str = ""
    wids: tuple[str, ...] = ()

    @property
    def permissions(self) -> tuple[str, ...]:
        return tuple(sorted({*self.roles, *self.scp.split()}))[:MOST_NAMES]

    @property
    def directory_roles(self) -> tuple[str, ...]:
        return tuple(sorted({DIRECTORY_ROLES.get(role, role) for role in self.wids}))[:MOST_NAMES]


class _Plan(msgspec.Struct):
    name: str = msgspec.field(default="", name="servicePlanName")


class _Sku(msgspec.Struct):
    part_number: str = msgspec.field(default="", name="skuPartNumber")
    standing: str = msgspec.field(default="Enabled", name="capabilityStatus")
    plans: tuple[_Plan, ...] = msgspec.field(default=(), name="servicePlans")


def claims_of(token: str) -> Claims | None:
    """None for a token that shows nothing: services may use other forms than a JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=Claims)
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        return None


def granted(dataset: Dataset, claims: Claims | None) -> Granted:
    """Whether the claims name what the dataset needs."""
    if claims is None or dataset.workload == "exchange-server":
        return "unknown"
    wanted = EXCHANGE_PERMISSIONS if dataset.workload == "exchange" else sufficient(dataset.permission)
    return "granted" if wanted & {*claims.roles, *claims.scp.split()} else "missing"


def sufficient(permission: str) -> frozenset[str]:
    """Each of these Graph permissions is enough where `permission` is asked for."""
    written = permission.replace(".Read.", ".ReadWrite.")
    return frozenset({permission, written, *COVERED_BY.get(permission, ())})


def licences_in(rows: Collection[bytes]) -> tuple[str, ...]:
    """Product and service plan names of subscribed SKUs that work, from Graph's rows; what is none is left out."""
    names: set[str] = set()
    for row in rows:
        try:
            sku = msgspec.json.decode(row, type=_Sku)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if sku.standing in ("Enabled", "Warning"):
            names |= {sku.part_number, *(plan.name for plan in sku.plans)}
    return tuple(sorted(names - {""}))[:MOST_NAMES]


def licensed(licence: str, names: Collection[str] | None) -> Granted:
    """Whether one of the names has the licence. A licence that is not in the table is unknown."""
    if not licence:
        return "granted"
    patterns = LICENCES.get(licence)
    if names is None or patterns is None:
        return "unknown"
    return "granted" if any(fnmatchcase(name, pattern) for name in names for pattern in patterns) else "missing"
