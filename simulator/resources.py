"""The APIs a token can be for: their names in every cloud, and what is granted to an application or a user of them.

Application ids and permission names: learn.microsoft.com/graph/permissions-reference and the Exchange Online
app-only authentication guide.
"""

from __future__ import annotations

from simulator.world import EXCHANGE, GRAPH, KEY_VAULT

ACTIVITY = "https://manage.office.com"
COMPLIANCE = "https://ps.compliance.protection.outlook.com"

RESOURCES = {
    GRAPH: GRAPH,
    "00000003-0000-0000-c000-000000000000": GRAPH,
    "https://graph.microsoft.us": GRAPH,
    "https://dod-graph.microsoft.us": GRAPH,
    "https://microsoftgraph.chinacloudapi.cn": GRAPH,
    EXCHANGE: EXCHANGE,
    "00000002-0000-0ff1-ce00-000000000000": EXCHANGE,
    "https://outlook.office.com": EXCHANGE,
    "https://outlook.office365.us": EXCHANGE,
    "https://outlook-dod.office365.us": EXCHANGE,
    "https://outlook.office365.cn": EXCHANGE,
    "https://partner.outlook.cn": EXCHANGE,
    COMPLIANCE: COMPLIANCE,
    ACTIVITY: ACTIVITY,
    "https://manage-gcc.office.com": ACTIVITY,
    "https://manage.office365.us": ACTIVITY,
    KEY_VAULT: KEY_VAULT,
    "cfa8b339-82a2-471a-a3c9-0fc0be7a4093": KEY_VAULT,
    "https://vault.usgovcloudapi.net": KEY_VAULT,
    "https://vault.azure.cn": KEY_VAULT,
}
"""What a client may call a resource, to the one name this simulator uses for it."""

APP_ROLES: dict[str, tuple[str, ...]] = {
    GRAPH: (
        "User.Read.All",
        "Group.Read.All",
        "GroupMember.Read.All",
        "Directory.Read.All",
        "Organization.Read.All",
        "Application.Read.All",
        "RoleManagement.Read.Directory",
        "Policy.Read.All",
        "Reports.Read.All",
        "ReportSettings.Read.All",
        "AuditLog.Read.All",
        "UserAuthenticationMethod.Read.All",
        "MailboxSettings.Read",
        "DeviceManagementManagedDevices.Read.All",
        "ServiceHealth.Read.All",
        "SecurityEvents.Read.All",
        "Sites.Read.All",
    ),
    EXCHANGE: ("Exchange.ManageAsApp",),
    COMPLIANCE: ("Exchange.ManageAsApp",),
    ACTIVITY: ("ActivityFeed.Read", "ActivityFeed.ReadDlp", "ServiceHealth.Read"),
}
"""Application permissions in the `roles` claim of a consented application."""

USER_SCOPES: dict[str, tuple[str, ...]] = {
    **APP_ROLES,
    EXCHANGE: ("Exchange.Manage",),
    COMPLIANCE: ("Exchange.Manage",),
    KEY_VAULT: ("user_impersonation",),
}
"""Delegated permissions in the `scp` claim of a user's token."""
