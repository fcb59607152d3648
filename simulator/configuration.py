"""The organisation's settings as Exchange shows them: rules, domains, connectors and servers, one row each.

Values are Python's own, as in `simulator.mailboxes`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from simulator.mailboxes import Row, size, stable_guid
from simulator.world import Tenant


def _moment(tenant: Tenant, days: int) -> datetime:
    return (tenant.created + timedelta(days=days)).replace(microsecond=0)


RULES = (
    ("Warn on external mail", "InOrganization", "NotInOrganization", "PrependSubject", "[EXTERNAL]"),
    ("Block executable attachments", None, "InOrganization", "RejectMessageReasonText", "Executables are not accepted"),
    ("Disclaimer", "InOrganization", None, "ApplyHtmlDisclaimerText", "<p>Confidential</p>"),
    ("Journal finance", None, None, "BlindCopyTo", "journal@archive.example"),
    ("Quarantine spoofed executives", "NotInOrganization", None, "Quarantine", "True"),
    ("Encrypt when asked", "InOrganization", "NotInOrganization", "ApplyRightsProtectionTemplate", "Encrypt"),
)


def transport_rules(tenant: Tenant) -> list[Row]:
    """Rows of Get-TransportRule: three to six rules, by the tenant's seed."""
    return [
        {
            "Identity": str(stable_guid(tenant, f"rule/{name}")),
            "Name": name,
            "Guid": stable_guid(tenant, f"rule/{name}"),
            "Priority": priority,
            "State": "Disabled" if (tenant.seed + priority) % 5 == 4 else "Enabled",
            "Mode": "Audit" if (tenant.seed + priority) % 7 == 6 else "Enforce",
            "Comments": None,
            "Description": f"Rule {priority + 1}: {name}",
            "FromScope": sender,
            "SentToScope": receiver,
            "Conditions": ["Microsoft.Exchange.MessagingPolicies.Rules.Tasks.FromScopePredicate"] if sender else [],
            "Actions": [f"Microsoft.Exchange.MessagingPolicies.Rules.Tasks.{action}Action"],
            action: value,
            "StopRuleProcessing": priority == 1,
            "RuleErrorAction": "Ignore",
            "RuleVersion": "14.0.0.0",
            "SenderAddressLocation": "Header",
            "WhenChanged": _moment(tenant, 10 + priority),
        }
        for priority, (name, sender, receiver, action, value) in enumerate(RULES[: 3 + tenant.seed % 4])
    ]


def organization_config(tenant: Tenant) -> list[Row]:
    """The one row of Get-OrganizationConfig."""
    return [
        {
            "Identity": tenant.initial_domain,
            "Name": tenant.initial_domain,
            "DisplayName": tenant.name,
            "Guid": stable_guid(tenant, "organization"),
            "AuditDisabled": False,
            "OAuth2ClientProfileEnabled": True,
            "MailTipsExternalRecipientsTipsEnabled": False,
            "MailTipsLargeAudienceThreshold": 25,
            "DefaultPublicFolderMailbox": None,
            "EwsEnabled": None,
            "FocusedInboxOn": True,
            "IsDehydrated": False,
            "ActivityBasedAuthenticationTimeoutInterval": timedelta(hours=6),
            "RejectDirectSend": False,
            "WhenCreated": _moment(tenant, 0),
        }
    ]


def accepted_domains(tenant: Tenant) -> list[Row]:
    """Rows of Get-AcceptedDomain: the tenant's own domain and its initial one."""
    return [
        {
            "Identity": domain,
            "Name": domain,
            "DomainName": domain,
            "DomainType": "Authoritative",
            "Default": domain == tenant.domain,
            "InitialDomain": domain == tenant.initial_domain,
            "Guid": stable_guid(tenant, f"domain/{domain}"),
            "WhenCreated": _moment(tenant, 0),
        }
        for domain in (tenant.domain, tenant.initial_domain)
    ]


CONNECTORS = (
    ("Default", "HubTransport", "0.0.0.0:2525", ["Tls", "Integrated", "ExchangeServer"]),
    ("Client Proxy", "HubTransport", "0.0.0.0:465", ["Tls", "Integrated", "BasicAuth", "BasicAuthRequireTLS"]),
    ("Default Frontend", "FrontendTransport", "0.0.0.0:25", ["Tls", "Integrated", "BasicAuth"]),
    ("Outbound Proxy Frontend", "FrontendTransport", "0.0.0.0:717", ["Tls", "Integrated", "ExchangeServer"]),
    ("Client Frontend", "FrontendTransport", "0.0.0.0:587", ["Tls", "Integrated", "BasicAuth"]),
)


def _server_name(tenant: Tenant, number: int) -> str:
    return f"{tenant.domain.split('.')[0][:9].upper()}-EX{number:02d}"


def receive_connectors(tenant: Tenant) -> list[Row]:
    """Rows of Get-ReceiveConnector: the five of a fresh server, on each of the two servers."""
    return [
        {
            "Identity": f"{server}\\{name} {server}",
            "Name": f"{name} {server}",
            "Guid": stable_guid(tenant, f"connector/{server}/{name}"),
            "Server": server,
            "Enabled": True,
            "TransportRole": role,
            "Bindings": [binding],
            "RemoteIPRanges": ["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "0.0.0.0-255.255.255.255"],
            "AuthMechanism": ", ".join(mechanisms),
            "PermissionGroups": "AnonymousUsers" if binding.endswith(":25") else "ExchangeServers, ExchangeUsers",
            "Fqdn": f"{server.lower()}.{tenant.domain}",
            "Banner": None,
            "ConnectionTimeout": timedelta(minutes=10),
            "MaxMessageSize": size(36 << 20),
            "RequireTLS": False,
            "TlsCertificateName": None,
            "ProtocolLoggingLevel": "Verbose" if role == "FrontendTransport" else "None",
            "WhenChanged": _moment(tenant, 2),
        }
        for server in _servers(tenant)
        for name, role, binding, mechanisms in CONNECTORS
    ]


def _servers(tenant: Tenant) -> list[str]:
    return [_server_name(tenant, number) for number in (1, 2)] if tenant.exchange_server else []


def exchange_servers(tenant: Tenant) -> list[Row]:
    """Rows of Get-ExchangeServer: two servers of one site."""
    return [
        {
            "Identity": server,
            "Name": server,
            "Guid": stable_guid(tenant, f"server/{server}"),
            "Fqdn": f"{server.lower()}.{tenant.domain}",
            "Edition": "Standard",
            "ServerRole": "Mailbox",
            "AdminDisplayVersion": "Version 15.2 (Build 2562.17)",
            "Site": f"{tenant.domain}/Configuration/Sites/Default-First-Site-Name",
            "IsExchangeTrialEdition": False,
            "WhenCreated": _moment(tenant, 1),
        }
        for server in _servers(tenant)
    ]
