"""Which datasets a run collects: those asked for, else the tenant's plan, else the whole catalog."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from collectors.dataset import Dataset as Definition
from domain.errors import NotAllowed
from domain.ids import Dataset, known_dataset
from domain.tenant import Tenant


def datasets_for(tenant: Tenant, catalog: Mapping[Dataset, Definition], asked: Sequence[str]) -> tuple[Dataset, ...]:
    """In the order of the catalog, parents first. An Exchange Server's datasets only where the tenant declares one.

    Raises `Unknown` for a name that is not in the catalog and `NotAllowed` when nothing is left to collect.
    """
    wanted = [known_dataset(name, catalog) for name in asked or tenant.datasets or catalog]
    found = possible(tenant, catalog, wanted)
    if not found:
        raise NotAllowed(
            "collect", f"tenant {tenant.id} declares no Exchange Server", "Declare it with `tenantry tenant change`."
        )
    return found


def possible(tenant: Tenant, catalog: Mapping[Dataset, Definition], wanted: Collection[Dataset]) -> tuple[Dataset, ...]:
    """Those of `wanted` that the tenant may have, in the order of the catalog."""
    return tuple(
        name
        for name, definition in catalog.items()
        if name in wanted and (tenant.exchange_server or definition.workload != "exchange-server")
    )
