"""What a verification asks and what it finds: facts to show, none of them secret."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from collectors.dataset import Dataset as Definition
from collectors.dataset import Workload
from collectors.permissions import Claims, Granted, granted, licensed
from domain.ids import Dataset, RunId, Slot

Outcome = Literal["verified", "refused", "not-released", "unavailable"]

PROBES: Mapping[Workload, Definition] = {
    "graph": Definition(
        name=Dataset("entra.licences"),
        workload="graph",
        mode="full",
        path="/v1.0/subscribedSkus",
        key="id",
        permission="LicenseAssignment.Read.All",
        cost=3,
    ),
    "exchange": Definition(
        name=Dataset("exchange.organization-config"),
        workload="exchange",
        mode="full",
        cmdlet="Get-OrganizationConfig",
        select=("Name",),
        key="Name",
        permission="Exchange.ManageAsApp and the Entra role Global Reader",
    ),
    "exchange-server": Definition(
        name=Dataset("onprem.servers"),
        workload="exchange-server",
        mode="full",
        cmdlet="Get-ExchangeServer",
        select=("Name",),
        key="Name",
        permission="the Exchange role group View-Only Organization Management",
    ),
}
"""One cheap question to each service: what tells more than a token does."""


class ResourceFound(msgspec.Struct, frozen=True, kw_only=True):
    """`code`, `category`: of a refusal. `detail`: why it is not verified, with what to do. `readable`: whether the one
    cheap question was answered, None when it was not asked or nothing is known by what came; `unreadable`: why not."""

    resource: Workload
    slot: Slot
    outcome: Outcome
    code: int = 0
    category: str = ""
    detail: str = ""
    permissions: tuple[str, ...] = ()
    directory_roles: tuple[str, ...] = ()
    readable: bool | None = None
    unreadable: str = ""


class DatasetFound(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the sign-in has what a dataset of the plan needs, as far as can be seen without reading it."""

    dataset: Dataset
    resource: Workload
    permission: str
    granted: Granted
    licence: str
    licensed: Granted


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """`licences`: product and service plan names, None when they could not be read."""

    id: RunId
    tenant: str
    resources: tuple[ResourceFound, ...]
    datasets: tuple[DatasetFound, ...]
    licences: tuple[str, ...] | None = None


def dataset_found(
    definition: Definition,
    claims: Claims | None,
    licences: Collection[str] | None,
    *,
    readable: bool | None,
) -> DatasetFound:
    """`readable`: whether its service answered the cheap question. One that lets nothing be read has granted nothing,
    whatever the token says, and one that is away says nothing; Graph decides for each permission by itself."""
    has = granted(definition, claims)
    if definition.workload != "graph" and readable is not None:
        has = ("granted" if has == "unknown" else has) if readable else "missing"
    return DatasetFound(
        dataset=definition.name,
        resource=definition.workload,
        permission=definition.permission,
        granted=has,
        licence=definition.licence,
        licensed=licensed(definition.licence, licences),
    )
