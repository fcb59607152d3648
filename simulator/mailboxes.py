"""Mailboxes as Exchange shows them: one row of properties for each person, in the cloud or on the Exchange Server.

Values are Python's own: `UUID`, `datetime` (UTC), `timedelta`, `list[str]`, `str`, `bool`, `int` or None; each protocol
writes them in its way. Sizes are strings with their count of bytes, as Exchange prints them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

from simulator.world import Person, Tenant

T = TypeVar("T")
Row = dict[str, Any]

EMPTY_GUID = UUID(int=0)
PEOPLE_PER_SERVER_MAILBOX = 5
GIVEN_NAMES = ("Ada", "Bruno", "Clara", "Dario", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Lena")
SURNAMES = (
    "Abbott",
    "Berger",
    "Costa",
    "Duarte",
    "Eriksen",
    "Fontaine",
    "Gruber",
    "Haddad",
    "Ivanov",
    "Jansen",
    "Keller",
)
DEPARTMENTS = ("Production", "Warehouse", "Laboratory", "Field Service", "Archive")
ROLE_MAILBOXES = {17: "SharedMailbox", 43: "RoomMailbox", 71: "EquipmentMailbox"}
"""Every n-th kind of a hundred people; the others are user mailboxes."""

UNITS = (("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10))


def derived(tenant: Tenant, name: str, compute: Callable[[Tenant], T]) -> T:
    """What `compute` works out from the tenant, kept until the tenant's next change."""
    kept = tenant.derived.get(name)
    if kept is None or kept[0] != tenant.sequence:
        kept = tenant.derived[name] = (tenant.sequence, compute(tenant))
    value: T = kept[1]
    return value


def stable_guid(tenant: Tenant, label: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"{tenant.id}/{label}")


def size(size_bytes: int) -> str:
    """`99 GB (106,300,440,576 bytes)`: four significant digits, then the exact count."""
    for unit, step in UNITS:
        if size_bytes >= step:
            return f"{size_bytes / step:.4g} {unit} ({size_bytes:,} bytes)"
    return f"{size_bytes} B ({size_bytes:,} bytes)"


def cloud_people(tenant: Tenant) -> list[Person]:
    """People with a mailbox in Exchange Online."""
    return derived(tenant, "exchange.people", lambda t: [p for p in t.people.values() if p.mailbox_guid])


def server_people(tenant: Tenant) -> list[Person]:
    """People with a mailbox on the tenant's Exchange Server: a fifth as many as the cloud's, and others."""
    return derived(tenant, "exchange.server-people", _server_people)


def _server_people(tenant: Tenant) -> list[Person]:
    if not tenant.exchange_server:
        return []
    count = max(1, len(tenant.people) // PEOPLE_PER_SERVER_MAILBOX)
    return [_server_person(tenant, number) for number in range(count)]


def _server_person(tenant: Tenant, number: int) -> Person:
    choice = random.Random(f"{tenant.seed}/server/{number}")  # noqa: S311 - the same people from the same seed
    given_name, surname = choice.choice(GIVEN_NAMES), choice.choice(SURNAMES)
    mail = f"{given_name}.{surname}.{number}@onprem.{tenant.domain}".lower()
    items = choice.randrange(20, 60_000)
    return Person(
        id=str(stable_guid(tenant, f"server-person/{number}")),
        given_name=given_name,
        surname=surname,
        upn=mail,
        mail=mail,
        department=choice.choice(DEPARTMENTS),
        job_title="Operator",
        office=f"Plant {1 + number % 4}",
        city="Graz",
        country="AT",
        employee_id=f"S{number:06d}",
        guest=False,
        enabled=choice.random() > 0.03,
        created=tenant.created + timedelta(hours=choice.randrange(0, 2_000)),
        sku_ids=(),
        proxy_addresses=(f"SMTP:{mail}",),
        mailbox_guid=str(stable_guid(tenant, f"server-mailbox/{number}")),
        manager_id=None,
        last_sign_in=tenant.now - timedelta(minutes=choice.randrange(0, 60_000)),
        mailbox_items=items,
        mailbox_bytes=items * choice.randrange(4_000, 90_000),
    )


def by_identity(people: list[Person]) -> dict[str, Person]:
    """Each name by which a mailbox can be asked for, in lower case, to its person."""
    index: dict[str, Person] = {}
    for person in people:
        addresses = (address.partition(":")[2] for address in person.proxy_addresses)
        for name in (person.id, person.mailbox_guid, person.upn, person.mail, alias(person), *addresses):
            if name:
                index.setdefault(name.lower(), person)
    return index


def alias(person: Person) -> str:
    return person.mail.partition("@")[0] or person.upn.partition("@")[0]


def kind(person: Person) -> str:
    """RecipientTypeDetails of the person's mailbox."""
    return ROLE_MAILBOXES.get(_percentile(person), "UserMailbox")


def has_archive(person: Person) -> bool:
    return _percentile(person) % 3 == 0


def _percentile(person: Person) -> int:
    """A number below 100 that a person keeps."""
    return UUID(person.id).int % 100


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def mailbox(tenant: Tenant, person: Person) -> Row:
    """A row of Get-Mailbox; ExchangeGuid is the mailbox's id, ExternalDirectoryObjectId the person's."""
    share = _percentile(person)
    guid = UUID(person.mailbox_guid)
    name = f"{alias(person)}{share:02d}"
    unit = f"{tenant.initial_domain}/Microsoft Exchange Hosted Organizations/{tenant.initial_domain}"
    database = f"DB{guid.int % 900:03d}"
    archive = has_archive(person)
    forwarded = share in (5, 6, 7)
    return {
        "Identity": person.id,
        "Name": name,
        "DisplayName": person.display_name,
        "Alias": alias(person),
        "UserPrincipalName": person.upn,
        "PrimarySmtpAddress": person.mail,
        "WindowsEmailAddress": person.mail,
        "EmailAddresses": list(person.proxy_addresses) or [f"SMTP:{person.mail}"],
        "ExchangeGuid": guid,
        "ExternalDirectoryObjectId": person.id,
        "Guid": UUID(person.id),
        "DistinguishedName": f"CN={name},OU={tenant.initial_domain},OU=Microsoft Exchange Hosted Organizations,DC=PROD",
        "OrganizationalUnit": unit,
        "LegacyExchangeDN": f"/o=ExchangeLabs/ou=Exchange Administrative Group/cn=Recipients/cn={guid.hex}-{name}",
        "RecipientType": "UserMailbox",
        "RecipientTypeDetails": kind(person),
        "Database": database,
        "ServerName": f"mbx{guid.int % 700:03d}",
        "ForwardingAddress": None,
        "ForwardingSmtpAddress": f"smtp:{alias(person)}@archive.example" if forwarded else None,
        "DeliverToMailboxAndForward": forwarded and share != 6,
        "HiddenFromAddressListsEnabled": share % 20 == 0,
        "GrantSendOnBehalfTo": [person.manager_id] if person.manager_id and share % 9 == 0 else [],
        "LitigationHoldEnabled": share % 25 == 0,
        "LitigationHoldDuration": "Unlimited",
        "InPlaceHolds": [f"mbx{guid.hex}:2"] if share % 25 == 1 else [],
        "RetentionPolicy": "Default MRM Policy",
        "RetainDeletedItemsFor": timedelta(days=14),
        "ArchiveGuid": stable_guid(tenant, f"archive/{person.id}") if archive else EMPTY_GUID,
        "ArchiveName": [f"In-Place Archive -{person.display_name}"] if archive else [],
        "ArchiveStatus": "Active" if archive else "None",
        "AutoExpandingArchiveEnabled": archive and share % 2 == 0,
        "AuditEnabled": True,
        "AuditLogAgeLimit": timedelta(days=90),
        "IssueWarningQuota": size(98 << 30),
        "ProhibitSendQuota": size(99 << 30),
        "ProhibitSendReceiveQuota": size(100 << 30),
        "UseDatabaseQuotaDefaults": False,
        "RecipientLimits": "500",
        "MaxSendSize": size(35 << 20),
        "MaxReceiveSize": size(36 << 20),
        "Office": person.office,
        "UsageLocation": person.country,
        "Languages": [],
        "AccountDisabled": not person.enabled,
        "IsInactiveMailbox": False,
        "IsShared": kind(person) == "SharedMailbox",
        "WhenMailboxCreated": _utc(person.created),
        "WhenCreated": _utc(person.created),
        "WhenChanged": _utc(person.created + timedelta(days=1, seconds=person.changed)),
    }


def statistics(tenant: Tenant, person: Person) -> Row:
    """A row of Get-MailboxStatistics; MailboxGuid is the mailbox's ExchangeGuid."""
    return _statistics(tenant, person, UUID(person.mailbox_guid), 1)


def archive_statistics(tenant: Tenant, person: Person) -> Row:
    """A row of Get-MailboxStatistics -Archive: the archive holds three times as much."""
    return _statistics(tenant, person, stable_guid(tenant, f"archive/{person.id}"), 3)


def _statistics(tenant: Tenant, person: Person, guid: UUID, factor: int) -> Row:
    deleted = person.mailbox_items // 20
    row_bytes = person.mailbox_bytes * factor
    return {
        "Identity": str(guid),
        "DisplayName": person.display_name,
        "MailboxGuid": guid,
        "OwnerADGuid": UUID(person.id),
        "LegacyDN": f"/O=EXCHANGELABS/OU=EXCHANGE ADMINISTRATIVE GROUP/CN=RECIPIENTS/CN={guid.hex.upper()}",
        "MailboxTypeDetail": kind(person),
        "IsArchiveMailbox": factor > 1,
        "ItemCount": person.mailbox_items * factor,
        "TotalItemSize": size(row_bytes),
        "DeletedItemCount": deleted,
        "TotalDeletedItemSize": size(row_bytes // 20),
        "AssociatedItemCount": 30 + _percentile(person),
        "MessageTableTotalSize": size(row_bytes + (row_bytes >> 3)),
        "StorageLimitStatus": "BelowLimit" if row_bytes < 98 << 30 else "IssueWarning",
        "LastLogonTime": _utc(person.last_sign_in),
        "LastLogoffTime": None,
        "DatabaseName": f"DB{guid.int % 900:03d}",
        "ServerName": f"mbx{guid.int % 700:03d}",
        "IsQuarantined": False,
        "DisconnectReason": None,
    }


def cas_mailbox(tenant: Tenant, person: Person) -> Row:
    """A row of Get-CASMailbox: which protocols may open the mailbox."""
    share = _percentile(person)
    return {
        "Identity": person.id,
        "DisplayName": person.display_name,
        "PrimarySmtpAddress": person.mail,
        "ExternalDirectoryObjectId": person.id,
        "Guid": UUID(person.id),
        "ActiveSyncEnabled": True,
        "OWAEnabled": True,
        "PopEnabled": share % 10 == 0,
        "ImapEnabled": share % 5 == 0,
        "MAPIEnabled": True,
        "EwsEnabled": share % 7 != 0,
        "SmtpClientAuthenticationDisabled": None if share % 4 else share % 8 == 0,
        "OwaMailboxPolicy": f"OwaMailboxPolicy-{tenant.name}",
    }
