"""The properties of Graph's users, groups, licences and organization, each a row of a table: name to value.

Names and default sets: Graph v1.0 reference of `user`, `group`, `organization` and `subscribedSku`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, uuid5

from simulator.graph_wire import Views, encode, wire_time
from simulator.world import Group, Person, Sku, Tenant

ROWS_KEPT = 120_000
COUNTRY_CODES = {
    "Brazil": "BR",
    "Canada": "CA",
    "Germany": "DE",
    "Poland": "PL",
    "Portugal": "PT",
    "Singapore": "SG",
    "United Kingdom": "GB",
    "United States": "US",
}

USER: Mapping[str, Callable[[Tenant, Person], Any]] = {
    "id": lambda _, p: p.id,
    "businessPhones": lambda _, p: [],
    "displayName": lambda _, p: p.display_name,
    "givenName": lambda _, p: p.given_name,
    "jobTitle": lambda _, p: p.job_title or None,
    "mail": lambda _, p: p.mail or None,
    "mobilePhone": lambda _, p: None,
    "officeLocation": lambda _, p: p.office or None,
    "preferredLanguage": lambda _, p: None,
    "surname": lambda _, p: p.surname,
    "userPrincipalName": lambda _, p: p.upn,
    "accountEnabled": lambda _, p: p.enabled,
    "ageGroup": lambda _, p: None,
    "assignedLicenses": lambda _, p: [{"disabledPlans": [], "skuId": sku} for sku in p.sku_ids],
    "assignedPlans": lambda _, p: [
        {
            "assignedDateTime": wire_time(p.created),
            "capabilityStatus": "Enabled",
            "service": "exchange",
            "servicePlanId": plan_id(sku),
        }
        for sku in p.sku_ids
    ],
    "city": lambda _, p: p.city or None,
    "companyName": lambda t, p: None if p.guest else t.name,
    "country": lambda _, p: p.country or None,
    "createdDateTime": lambda _, p: wire_time(p.created),
    "creationType": lambda _, p: "Invitation" if p.guest else None,
    "deletedDateTime": lambda _, p: None,
    "department": lambda _, p: p.department or None,
    "employeeHireDate": lambda _, p: None,
    "employeeId": lambda _, p: p.employee_id or None,
    "employeeType": lambda _, p: None if p.guest else "Employee",
    "externalUserState": lambda _, p: "Accepted" if p.guest else None,
    "faxNumber": lambda _, p: None,
    "imAddresses": lambda _, p: [] if p.guest else [p.upn],
    "lastPasswordChangeDateTime": lambda _, p: wire_time(p.created),
    "licenseAssignmentStates": lambda _, p: [
        {
            "skuId": sku,
            "disabledPlans": [],
            "assignedByGroup": None,
            "state": "Active",
            "error": "None",
            "lastUpdatedDateTime": wire_time(p.created),
        }
        for sku in p.sku_ids
    ],
    "mailNickname": lambda _, p: p.upn.partition("@")[0],
    "onPremisesImmutableId": lambda _, p: None,
    "onPremisesLastSyncDateTime": lambda _, p: None,
    "onPremisesSyncEnabled": lambda _, p: None,
    "otherMails": lambda _, p: [p.mail] if p.guest and p.mail else [],
    "passwordPolicies": lambda _, p: None,
    "postalCode": lambda _, p: None,
    "preferredDataLocation": lambda _, p: None,
    "proxyAddresses": lambda _, p: list(p.proxy_addresses),
    "showInAddressList": lambda _, p: None,
    "signInActivity": lambda _, p: {
        "lastSignInDateTime": wire_time(p.last_sign_in),
        "lastSignInRequestId": str(uuid5(NAMESPACE_URL, p.id)),
        "lastNonInteractiveSignInDateTime": wire_time(p.last_sign_in),
        "lastSuccessfulSignInDateTime": wire_time(p.last_sign_in),
    },
    "state": lambda _, p: None,
    "streetAddress": lambda _, p: None,
    "usageLocation": lambda _, p: COUNTRY_CODES.get(p.country) if p.sku_ids else None,
    "userType": lambda _, p: "Guest" if p.guest else "Member",
    "manager@delta": lambda _, p: [user_reference(p.manager_id)] if p.manager_id else [],
}
USER_DEFAULT = tuple(USER)[:11]
USER_SINGLE_ONLY = frozenset({"aboutMe", "birthday", "hireDate", "interests", "mySite", "pastProjects", "skills"})

GROUP: Mapping[str, Callable[[Tenant, Group], Any]] = {
    "id": lambda _, g: g.id,
    "deletedDateTime": lambda _, g: None,
    "classification": lambda _, g: None,
    "createdDateTime": lambda _, g: wire_time(g.created),
    "creationOptions": lambda _, g: ["Team"] if g.kind == "unified" else [],
    "description": lambda _, g: g.name,
    "displayName": lambda _, g: g.name,
    "expirationDateTime": lambda _, g: None,
    "groupTypes": lambda _, g: ["Unified"] if g.kind == "unified" else [],
    "isAssignableToRole": lambda _, g: None,
    "mail": lambda _, g: g.mail,
    "mailEnabled": lambda _, g: g.mail is not None,
    "mailNickname": lambda _, g: g.mail.partition("@")[0] if g.mail else g.id[:10],
    "membershipRule": lambda _, g: None,
    "membershipRuleProcessingState": lambda _, g: None,
    "onPremisesLastSyncDateTime": lambda _, g: None,
    "onPremisesSyncEnabled": lambda _, g: None,
    "preferredDataLocation": lambda _, g: None,
    "proxyAddresses": lambda _, g: [f"SMTP:{g.mail}"] if g.mail else [],
    "renewedDateTime": lambda _, g: wire_time(g.created),
    "resourceBehaviorOptions": lambda _, g: [],
    "resourceProvisioningOptions": lambda _, g: ["Team"] if g.kind == "unified" else [],
    "securityEnabled": lambda _, g: g.kind == "security",
    "theme": lambda _, g: None,
    "visibility": lambda _, g: "Private" if g.kind == "unified" else None,
    "assignedLicenses": lambda _, g: [],
}
GROUP_DEFAULT = tuple(GROUP)[:-1]


def user_reference(person_id: str) -> dict[str, str]:
    return {"@odata.type": "#microsoft.graph.user", "id": person_id}


def plan_id(sku_id: str) -> str:
    """The one service plan that each simulated licence has."""
    return str(uuid5(NAMESPACE_URL, sku_id))


def reason_removed(item_id: str) -> str:
    """`changed` for an item that can still be restored, `deleted` for one that is gone: always the same for an id."""
    return "deleted" if hashlib.blake2b(item_id.encode(), digest_size=1).digest()[0] % 4 == 0 else "changed"


T = TypeVar("T", Person, Group)


def rows_of(
    views: Views, tenant: Tenant, items: Mapping[str, T], table: Mapping[str, Any], names: tuple[str, ...]
) -> Callable[[str], bytes | None]:
    """From an id to that item's row as JSON with these properties; None for an item that is gone."""
    kept = views.rows.get(names, dict)
    columns = [(name, table[name]) for name in names]
    if len(kept) > ROWS_KEPT:
        kept.clear()

    def row(item_id: str) -> bytes | None:
        item = items.get(item_id)
        if item is None:
            return None
        known = kept.get(item_id)
        if known is not None and known[0] is item and known[1] == item.changed:
            return known[2]
        made = encode({name: value(tenant, item) for name, value in columns})
        kept[item_id] = (item, item.changed, made)
        return made

    return row


def organization_row(tenant: Tenant) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "deletedDateTime": None,
        "businessPhones": [],
        "countryLetterCode": "PT",
        "createdDateTime": wire_time(tenant.created),
        "defaultUsageLocation": "PT",
        "displayName": tenant.name,
        "onPremisesLastSyncDateTime": None,
        "onPremisesSyncEnabled": None,
        "partnerTenantType": None,
        "preferredLanguage": "en",
        "securityComplianceNotificationMails": [],
        "technicalNotificationMails": [f"admin@{tenant.domain}"],
        "tenantType": "AAD",
        "assignedPlans": [
            {
                "assignedDateTime": wire_time(tenant.created),
                "capabilityStatus": "Enabled",
                "service": "exchange",
                "servicePlanId": plan_id(sku.id),
            }
            for sku in tenant.skus
        ],
        "verifiedDomains": [
            {
                "capabilities": "Email, OfficeCommunicationsOnline",
                "isDefault": default,
                "isInitial": not default,
                "name": name,
                "type": "Managed",
            }
            for name, default in ((tenant.domain, True), (tenant.initial_domain, False))
        ],
    }


def units_consumed(tenant: Tenant) -> Mapping[str, int]:
    """Licences in use by sku id."""
    return Counter(sku for person in list(tenant.people.values()) for sku in person.sku_ids)


def sku_row(tenant: Tenant, sku: Sku, consumed: Mapping[str, int]) -> dict[str, Any]:
    return {
        "accountId": tenant.id,
        "accountName": tenant.initial_domain.split(".")[0],
        "appliesTo": "User",
        "capabilityStatus": "Enabled",
        "consumedUnits": consumed.get(sku.id, 0),
        "id": f"{tenant.id}_{sku.id}",
        "skuId": sku.id,
        "skuPartNumber": sku.part_number,
        "subscriptionIds": [str(uuid5(NAMESPACE_URL, tenant.id + sku.id))],
        "prepaidUnits": {"enabled": sku.enabled_units, "suspended": 0, "warning": 0, "lockedOut": 0},
        "servicePlans": [
            {
                "servicePlanId": plan_id(sku.id),
                "servicePlanName": sku.part_number,
                "provisioningStatus": "Success",
                "appliesTo": "User",
            }
        ],
    }
