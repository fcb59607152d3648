"""The endpoints of Graph: path, permission, cost, limits and the query options each one knows.

Permissions: Graph permissions reference. Costs: Graph throttling limits, identity and access.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from simulator import graph_delta as delta
from simulator import graph_lists as lists
from simulator import graph_reports as reports
from simulator import graph_signins as signins
from simulator.graph_paging import Query
from simulator.graph_wire import Answer, Call

SINGLE = frozenset({"$select"})
LIST = frozenset({"$select", "$top", "$count", "$skiptoken"})
DELTA = frozenset({"$select", "$skiptoken", "$deltatoken"})
LOG = frozenset({"$select", "$top", "$skiptoken", "$filter", "$orderby"})
NOTHING: frozenset[str] = frozenset()
ID = r"([^/()]+)"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`route` is its name for faults and the request log, `cost` in resource units, `role` the permission it needs."""

    route: str
    pattern: re.Pattern[str]
    answer: Callable[[Call, Query, tuple[str, ...]], Answer]
    role: str
    cost: int = 1
    quota: str = "identity"
    allowed: frozenset[str] = LIST


def _at(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


ACTIVE_USERS = r"reports/getOffice365ActiveUserDetail\((period|date)='?([\w-]+)'?\)"
ENDPOINTS = (
    Endpoint("organization", _at("organization"), lists.organization, "Organization.Read.All", allowed=SINGLE),
    Endpoint("users", _at("users"), lists.users, "User.Read.All", 2),
    Endpoint("users", _at(r"users/\$count"), lists.users_count, "User.Read.All", allowed=NOTHING),
    Endpoint(
        "users-delta",
        _at(r"users/(?:microsoft\.graph\.)?delta(?:\(\))?"),
        delta.users_delta,
        "User.Read.All",
        2,
        allowed=DELTA,
    ),
    Endpoint("users", _at(f"users/{ID}"), lists.user, "User.Read.All", allowed=SINGLE),
    Endpoint("groups", _at("groups"), lists.groups, "Group.Read.All"),
    Endpoint("groups", _at(r"groups/\$count"), lists.groups_count, "Group.Read.All", allowed=NOTHING),
    Endpoint(
        "groups-delta",
        _at(r"groups/(?:microsoft\.graph\.)?delta(?:\(\))?"),
        delta.groups_delta,
        "Group.Read.All",
        allowed=DELTA,
    ),
    Endpoint("group-owners", _at(f"groups/{ID}/owners"), lists.owners, "GroupMember.Read.All"),
    Endpoint("group-members", _at(f"groups/{ID}/members"), lists.members, "GroupMember.Read.All", 3),
    Endpoint(
        "group-members",
        _at(f"groups/{ID}/members/\\$count"),
        lists.members_count,
        "GroupMember.Read.All",
        allowed=NOTHING,
    ),
    Endpoint("groups", _at(f"groups/{ID}"), lists.group, "Group.Read.All", allowed=SINGLE),
    Endpoint(
        "subscribed-skus", _at("subscribedSkus"), lists.subscribed_skus, "LicenseAssignment.Read.All", 3, allowed=SINGLE
    ),
    Endpoint(
        "sign-ins",
        _at("auditLogs/signIns"),
        signins.sign_ins,
        "AuditLog.Read.All",
        quota="identity-reports",
        allowed=LOG,
    ),
    Endpoint(
        "active-users-report",
        _at(ACTIVE_USERS),
        reports.active_users,
        "Reports.Read.All",
        quota="usage-reports",
        allowed=NOTHING,
    ),
    Endpoint(
        "report-settings",
        _at("admin/reportSettings"),
        reports.report_settings,
        "ReportSettings.Read.All",
        quota="none",
        allowed=SINGLE,
    ),
)


def found(path: str) -> tuple[Endpoint | None, tuple[str, ...]]:
    """The endpoint of a path below the version, and what the path names."""
    for endpoint in ENDPOINTS:
        if (match := endpoint.pattern.fullmatch(path)) is not None:
            return endpoint, match.groups()
    return None, ()
