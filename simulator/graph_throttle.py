"""Graph's published limits, and what a caller has used of each.

Source: learn.microsoft.com/graph/throttling-limits: identity and access (resource units), identity and access reports,
Microsoft 365 usage reports, and the global limit. Settings of a tenant: `throttle` False turns them off for it;
`throttle_scale` and `app_throttle_scale` multiply the limits of one tenant and of all tenants of an app.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from simulator.graph_paging import Query
from simulator.graph_wire import Call, Refused
from simulator.world import Tenant

METERS_KEPT = 50_000
WARNED_ABOVE = 0.8
SMALL_TOP = 20
SIZES = ((50, 3_500.0), (501, 5_000.0), (math.inf, 8_000.0))
"""Resource units in ten seconds of an app in a tenant, by the number of users it has less than."""

WIRE_SCOPES: dict[tuple[str, ...], str] = {("app",): "Application", ("tenant",): "Tenant"}


@dataclass(frozen=True, slots=True)
class Limit:
    """`amount` in `seconds`, counted apart for each value of `scope`. Amount None: by the tenant's size."""

    name: str
    scope: tuple[str, ...]
    amount: float | None
    seconds: float
    in_units: bool = False

    @property
    def wire_scope(self) -> str:
        """As in `x-ms-throttle-scope`."""
        return WIRE_SCOPES.get(self.scope[:2], "Tenant_Application")


GLOBAL = Limit("global", ("app",), 130_000, 10)
QUOTAS: Mapping[str, tuple[Limit, ...]] = {
    "identity": (
        Limit("identity", ("app", "tenant"), None, 10, in_units=True),
        Limit("identity-app", ("app",), 150_000, 20, in_units=True),
        GLOBAL,
    ),
    "identity-reports": (
        Limit("identity-reports", ("app", "tenant"), 5, 10),
        Limit("identity-reports-app", ("app",), 122, 10),
        GLOBAL,
    ),
    "usage-reports": (
        Limit("usage-reports", ("app", "tenant", "route"), 14, 600),
        Limit("usage-reports-tenant", ("tenant", "route"), 40, 600),
        GLOBAL,
    ),
    "none": (GLOBAL,),
}


@dataclass(slots=True)
class Meter:
    """What is used of one limit; it runs out at the limit's rate."""

    used: float
    at: datetime


def units(cost: int, query: Query) -> int:
    """Resource units of a read that costs `cost` plain: $select and a small $top save one each, $expand adds one."""
    saved = (query.select is not None) + (query.top is not None and query.top < SMALL_TOP)
    return max(1, cost + query.expanded - saved)


class Quotas:
    """The meters of every app and tenant."""

    def __init__(self) -> None:
        self._meters: OrderedDict[tuple[str, ...], Meter] = OrderedDict()

    def charge(self, call: Call, route: str, quota: str, cost: int) -> dict[str, str]:
        """Take a call's cost from each limit; returns headers about it. Refuses, taking none, when one is used up."""
        identity = quota == "identity"
        headers = {"x-ms-resource-unit": str(cost)} if identity else {}
        if not call.tenant.settings.get("throttle", True):
            return headers
        taken = []
        for limit in QUOTAS[quota]:
            meter, amount = self._meter(call, route, limit)
            used = meter.used + (cost if limit.in_units else 1)
            if used > amount:
                raise _throttled(call, limit, (used - amount) * limit.seconds / amount, used / amount)
            taken.append((meter, used, used / amount))
        for meter, used, _ in taken:
            meter.used = used
        share = max(share for _, _, share in taken)
        if identity and share > WARNED_ABOVE:
            headers["x-ms-throttle-limit-percentage"] = f"{share:.2f}"
        return headers

    def _meter(self, call: Call, route: str, limit: Limit) -> tuple[Meter, float]:
        values = {"app": call.claims.app_id, "tenant": call.tenant.id, "route": route}
        key = (limit.name, *(values[part] for part in limit.scope))
        scale = "throttle_scale" if "tenant" in limit.scope else "app_throttle_scale"
        amount = (limit.amount or _size(call.tenant)) * float(call.tenant.settings.get(scale, 1.0))
        amount = max(1.0, round(amount, 6))
        meter = self._meters.setdefault(key, Meter(0.0, call.now))
        self._meters.move_to_end(key)
        if len(self._meters) > METERS_KEPT:
            self._meters.popitem(last=False)
        elapsed = max(0.0, (call.now - meter.at).total_seconds())
        meter.used = max(0.0, meter.used - elapsed * amount / limit.seconds)
        meter.at = call.now
        return meter, amount


def _size(tenant: Tenant) -> float:
    return next(amount for below, amount in SIZES if len(tenant.people) < below)


def _throttled(call: Call, limit: Limit, seconds: float, share: float) -> Refused:
    headers = {"Retry-After": str(max(1, math.ceil(seconds)))}
    if limit.in_units:
        headers |= {
            "x-ms-throttle-limit-percentage": f"{min(share, 1.8):.2f}",
            "x-ms-throttle-scope": f"{limit.wire_scope}/Read/{call.claims.app_id}/{call.tenant.id}",
            "x-ms-throttle-information": "ResourceUnitLimitExceeded",
        }
    return Refused(429, "TooManyRequests", "Please retry again later.", headers)
