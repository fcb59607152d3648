"""The cmdlets of Exchange: what each may be asked and what it answers, whatever the protocol.

A cmdlet is a row of `CMDLETS`. `call` checks the parameters and gives the subjects that match; `Cmdlet.row` shows one.
The REST API offers those of `CLOUD`, an Exchange Server's PowerShell those of `SERVER`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator import configuration, mailboxes
from simulator.mailboxes import Row, stable_guid
from simulator.world import Person, Tenant

DEFAULT_RESULT_SIZE = 1000
MANAGEMENT = "Microsoft.Exchange.Data.Directory"
COMMON_PARAMETERS = frozenset({"erroraction", "warningaction", "verbose", "debug", "erroravariable", "outvariable"})

DEFAULT_SIZE_WARNING = (
    "By default, only the first 1000 items are returned. Use the ResultSize parameter to specify the number of items"
    ' returned. To return all items, specify "-ResultSize Unlimited". Be aware that, depending on the actual number of'
    " items, returning all items can take a long time and consume a large amount of memory. Also, we don't recommend"
    " storing the results in a variable. Instead, pipe the results to another task or script to perform batch changes."
)
MORE_RESULTS_WARNING = (
    "There are more results available than are currently displayed. To view them, increase the value for the"
    " ResultSize parameter."
)


class CmdletRefused(Exception):
    """A cmdlet that was not run, or found nothing. args: kind (a key of `REFUSALS`), sentence for the caller."""

    @property
    def kind(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a kind of refusal looks: HTTP status, OData code, .NET type, Exchange's code, and whether it has details."""

    status: int
    code: str
    exception: str
    mark: str = ""
    detailed: bool = True
    terminating: bool = True


REFUSALS: Mapping[str, Refusal] = {
    "unknown-cmdlet": Refusal(400, "BadRequest", "System.Management.Automation.CommandNotFoundException"),
    "unknown-parameter": Refusal(400, "BadRequest", "System.Management.Automation.ParameterBindingException"),
    "missing-parameter": Refusal(400, "BadRequest", "System.Management.Automation.ParameterBindingException"),
    "ambiguous": Refusal(
        400, "BadRequest", "Microsoft.Exchange.AdminApi.CommandInvocation.AmbiguousParameterSetException"
    ),
    "bad-value": Refusal(
        400,
        "BadRequest",
        "Microsoft.Exchange.AdminApi.CommandInvocation.ParameterTransformationException",
        detailed=False,
    ),
    "not-found": Refusal(
        404,
        "NotFound",
        "Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException",
        mark="Ex6F9304",
        terminating=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Cmdlet:
    """One cmdlet: `subjects` lists what it can show, `row` shows one. `alternatives` may not be given together."""

    name: str
    type_name: str
    subjects: Callable[[Tenant], Sequence[Any]]
    row: Callable[[Tenant, Any], Row]
    parameters: frozenset[str] = frozenset({"Identity"})
    required: str | None = None
    alternatives: frozenset[str] = frozenset({"Identity", "Anr"})
    identities: Callable[[Tenant], Mapping[str, Any]] | None = None
    archive_row: Callable[[Tenant, Any], Row] | None = None
    """What `-Archive` shows instead of `row`."""
    limited: bool = False
    """Whether ResultSize applies, with its default of 1000."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one call shows: each of `subjects` through `row`, and the warnings that go with it."""

    cmdlet: Cmdlet
    subjects: Sequence[Any]
    row: Callable[[Tenant, Any], Row]
    warnings: tuple[str, ...] = ()


def call(cmdlets: Mapping[str, Cmdlet], tenant: Tenant, name: str, parameters: Mapping[str, Any]) -> Result:
    """What the cmdlet answers to these parameters; raises CmdletRefused."""
    cmdlet = cmdlets.get(name.lower())
    if cmdlet is None:
        raise CmdletRefused(
            "unknown-cmdlet",
            f"The term '{name}' is not recognized as the name of a cmdlet, function, script file, or operable program.",
        )
    given = _bound(cmdlet, parameters)
    identity, row = given.get("identity"), cmdlet.row
    subjects = _identified(cmdlet, tenant, str(identity)) if identity else cmdlet.subjects(tenant)
    if given.get("archive") is True:
        subjects = [person for person in subjects if mailboxes.has_archive(person)]
        row = cmdlet.archive_row or row
        if identity and not subjects:
            raise _not_found(tenant, str(identity))
    if given.get("softdeletedmailbox") is True or given.get("inactivemailboxonly") is True:
        subjects = []
    if kinds := given.get("recipienttypedetails"):
        wanted = tuple(str(kind).lower() for kind in (kinds if isinstance(kinds, list) else [kinds]))
        subjects = [person for person in subjects if mailboxes.kind(person).lower().startswith(wanted)]
    for column in ("Server", "State"):
        if (wanted_value := given.get(column.lower())) is not None:
            subjects = [shown for shown in subjects if str(shown[column]).lower() == str(wanted_value).lower()]
    if condition := given.get("filter"):
        subjects = _filtered(tenant, str(condition), subjects, row)
    subjects, warnings = _limited(cmdlet, given.get("resultsize"), subjects)
    return Result(cmdlet, subjects, row, warnings)


def _bound(cmdlet: Cmdlet, parameters: Mapping[str, Any]) -> dict[str, Any]:
    known = {name.lower() for name in cmdlet.parameters}
    given: dict[str, Any] = {}
    for name, value in parameters.items():
        if name.lower() in COMMON_PARAMETERS:
            continue
        if name.lower() not in known:
            raise CmdletRefused(
                "unknown-parameter", f"A parameter cannot be found that matches parameter name '{name}'."
            )
        given[name.lower()] = value
    if sum(name.lower() in given for name in cmdlet.alternatives) > 1:
        raise CmdletRefused("ambiguous", "Parameter set cannot be resolved using the specified named parameters.")
    if cmdlet.required and not given.get(cmdlet.required.lower()):
        raise CmdletRefused(
            "missing-parameter",
            f"Cannot process command because of one or more missing mandatory parameters: {cmdlet.required}.",
        )
    return given


def _identified(cmdlet: Cmdlet, tenant: Tenant, identity: str) -> Sequence[Any]:
    if cmdlet.identities is not None:
        found = cmdlet.identities(tenant).get(identity.lower())
        matches = [] if found is None else [found]
    else:
        keys = ("Identity", "Name", "Guid")
        rows = cmdlet.subjects(tenant)
        matches = [row for row in rows if any(str(row.get(key, "")).lower() == identity.lower() for key in keys)]
    if not matches:
        raise _not_found(tenant, identity)
    return matches


def _not_found(tenant: Tenant, identity: str) -> CmdletRefused:
    server = f"DC{stable_guid(tenant, 'controller').int % 100:02d}.{tenant.initial_domain}"
    return CmdletRefused(
        "not-found", f"The operation couldn't be performed because object '{identity}' couldn't be found on '{server}'."
    )


CONDITION = re.compile(r"\s*(\w+)\s+-(eq|ne|like|ge|gt|le|lt)\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))\s*", re.IGNORECASE)
COMPARISONS: Mapping[str, Callable[[str, str], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "le": lambda a, b: a <= b,
    "lt": lambda a, b: a < b,
    "like": lambda a, b: re.fullmatch(".*".join(map(re.escape, b.split("*"))), a) is not None,
}


def _filtered(
    tenant: Tenant, condition: str, subjects: Sequence[Any], row: Callable[[Tenant, Any], Row]
) -> Sequence[Any]:
    """Subjects for which an OPATH filter of comparisons joined by `-and` holds; text compares without case."""
    tests: list[tuple[str, Callable[[str, str], bool], str]] = []
    for part in re.split(r"\s-and\s", condition.strip().strip("{}()"), flags=re.IGNORECASE):
        match = CONDITION.fullmatch(part.strip("()"))
        if match is None:
            raise CmdletRefused("bad-value", f"Cannot bind parameter 'Filter' to the target. \"{condition}\".")
        value = next(text for text in match.groups()[2:] if text is not None).lstrip("$").lower()
        tests.append((match[1].lower(), COMPARISONS[match[2].lower()], value))

    def holds(subject: Any) -> bool:
        shown = {name.lower(): str(value).lower() for name, value in row(tenant, subject).items()}
        return all(compare(shown.get(name, ""), value) for name, compare, value in tests)

    return [subject for subject in subjects if holds(subject)]


def _limited(cmdlet: Cmdlet, size: Any, subjects: Sequence[Any]) -> tuple[Sequence[Any], tuple[str, ...]]:
    if not cmdlet.limited or str(size).lower() == "unlimited":
        return subjects, ()
    limit = DEFAULT_RESULT_SIZE if size is None else _whole(size)
    if len(subjects) <= limit:
        return subjects, ()
    return subjects[:limit], (DEFAULT_SIZE_WARNING if size is None else MORE_RESULTS_WARNING,)


def _whole(size: Any) -> int:
    if not re.fullmatch(r"\d{1,9}", str(size)):
        raise CmdletRefused(
            "bad-value",
            f"Cannot process argument transformation on parameter 'ResultSize'. Cannot convert value \"{size}\" to"
            ' type "Microsoft.Exchange.Data.Unlimited`1[System.UInt32]".',
        )
    return int(size)


def _shown(_tenant: Tenant, subject: Row) -> Row:
    return subject


def _cloud_index(tenant: Tenant) -> Mapping[str, Person]:
    return mailboxes.derived(tenant, "exchange.index", lambda t: mailboxes.by_identity(mailboxes.cloud_people(t)))


def _server_index(tenant: Tenant) -> Mapping[str, Person]:
    return mailboxes.derived(
        tenant, "exchange.server-index", lambda t: mailboxes.by_identity(mailboxes.server_people(t))
    )


MAILBOX_PARAMETERS = frozenset(
    {"Identity", "Anr", "ResultSize", "RecipientTypeDetails", "Filter", "SortBy", "SoftDeletedMailbox", "Archive"}
    | {"InactiveMailboxOnly", "IncludeInactiveMailbox", "PropertySets", "Properties", "OrganizationalUnit", "Database"}
)


def _table(*cmdlets: Cmdlet) -> Mapping[str, Cmdlet]:
    return {cmdlet.name.lower(): cmdlet for cmdlet in cmdlets}


def _configuration(name: str, kind: str, rows: Callable[[Tenant], list[Row]], **options: Any) -> Cmdlet:
    return Cmdlet(name, f"{MANAGEMENT}.{kind}", rows, _shown, **options)


def _of_mailboxes(name: str, kind: str, server: bool, row: Callable[[Tenant, Person], Row], **options: Any) -> Cmdlet:
    people, index = (mailboxes.server_people, _server_index) if server else (mailboxes.cloud_people, _cloud_index)
    return Cmdlet(name, f"{MANAGEMENT}.Management.{kind}", people, row, identities=index, **options)


CLOUD = _table(
    _of_mailboxes("Get-Mailbox", "Mailbox", False, mailboxes.mailbox, parameters=MAILBOX_PARAMETERS, limited=True),
    _of_mailboxes(
        "Get-CASMailbox", "CASMailbox", False, mailboxes.cas_mailbox, parameters=MAILBOX_PARAMETERS, limited=True
    ),
    _of_mailboxes(
        "Get-MailboxStatistics",
        "MailboxStatistics",
        False,
        mailboxes.statistics,
        parameters=frozenset({"Identity", "Archive", "IncludeSoftDeletedRecipients", "PropertySets", "Properties"}),
        required="Identity",
        archive_row=mailboxes.archive_statistics,
    ),
    _configuration(
        "Get-TransportRule",
        "Management.TransportRule",
        configuration.transport_rules,
        parameters=frozenset({"Identity", "ResultSize", "State", "Filter"}),
        limited=True,
    ),
    _configuration("Get-OrganizationConfig", "SystemConfiguration.Organization", configuration.organization_config),
    _configuration("Get-AcceptedDomain", "SystemConfiguration.AcceptedDomain", configuration.accepted_domains),
)

SERVER = _table(
    _of_mailboxes("Get-Mailbox", "Mailbox", True, mailboxes.mailbox, parameters=MAILBOX_PARAMETERS, limited=True),
    _configuration(
        "Get-ReceiveConnector",
        "SystemConfiguration.ReceiveConnector",
        configuration.receive_connectors,
        parameters=frozenset({"Identity", "Server"}),
        alternatives=frozenset({"Identity", "Server"}),
    ),
    _configuration(
        "Get-ExchangeServer",
        "Management.ExchangeServer",
        configuration.exchange_servers,
        parameters=frozenset({"Identity", "Status"}),
    ),
)
