"""Sign-ins of the last thirty days, newest first, as `auditLogs/signIns` gives them.

A day's sign-ins are made from the tenant's seed when first asked for and kept, as a log keeps them, whatever happens to
the people later. About one in fifty is late: the log shows it minutes or hours after it happened, by `tenant.now`.
Setting `sign_ins_per_day` is the number of rows a day; without it, one a person and at most a thousand.
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from simulator.graph_lists import page_of, require_premium, unknown_property
from simulator.graph_paging import Query, page_size
from simulator.graph_wire import Answer, Call, Refused, encode, identity, wire_time
from simulator.world import Tenant

PAGE_MOST = 1_000
DAYS_KEPT = 30
LATE_ONE_IN = 50
NEWEST_FIRST = 1 << 40
APPS = ("Office 365 Exchange Online", "Microsoft Teams", "Office 365 SharePoint Online", "Azure Portal")
CLIENTS = ("Browser", "Mobile Apps and Desktop clients", "Mobile Apps and Desktop clients", "IMAP4")
ERRORS = {
    0: None,
    50126: "Error validating credentials due to invalid username or password.",
    50074: "Strong Authentication is required.",
    53003: "Access has been blocked by Conditional Access policies.",
}
COMPARISON = re.compile(r"(\w+)\s+(ge|gt|le|lt|eq)\s+('[^']*'|\S+)")
EVENT_TYPES = re.compile(r"signInEventTypes/any\(\s*(\w+)\s*:\s*\1\s+eq\s+'(\w+)'\s*\)")


@dataclass(frozen=True, slots=True)
class SignIn:
    """`key` sorts the newest first. `shown` is when the log begins to show it."""

    key: str
    id: str
    created: datetime
    shown: datetime
    person_id: str
    upn: str
    name: str
    app: str
    client: str
    error: int
    address: str


def logged(tenant: Tenant) -> list[SignIn]:
    """What the log shows at `tenant.now`, newest first."""
    _, days = tenant.derived.setdefault("sign-ins", (0, {}))
    today, oldest = tenant.now.date(), tenant.now - timedelta(days=DAYS_KEPT)
    missing = [day for ago in range(DAYS_KEPT + 1) if (day := today - timedelta(days=ago)) not in days]
    people = sorted(tenant.people) if missing else []
    for day in missing:
        days[day] = _day(tenant, people, day)
    for day in [day for day in days if day < oldest.date()]:
        del days[day]
    found = [s for day in days.values() for s in day if oldest <= s.created <= tenant.now and s.shown <= tenant.now]
    return sorted(found, key=lambda sign_in: sign_in.key)


def _day(tenant: Tenant, people: Sequence[str], day: date) -> list[SignIn]:
    rng = random.Random(f"sign-ins {tenant.seed} {tenant.id} {day}")  # noqa: S311 - repeatable on purpose
    count = int(tenant.settings.get("sign_ins_per_day", min(len(people), 1_000))) if people else 0
    midnight = datetime.combine(day, time(), UTC)
    made = (_sign_in(tenant, rng.choice(people), midnight, rng) for _ in range(count))
    return [sign_in for sign_in in made if sign_in.created >= tenant.people[sign_in.person_id].created]


def _sign_in(tenant: Tenant, person_id: str, midnight: datetime, rng: random.Random) -> SignIn:
    person = tenant.people[person_id]
    created = midnight + timedelta(seconds=rng.randrange(86_400))
    late = timedelta(minutes=rng.randrange(5, 180)) if rng.randrange(LATE_ONE_IN) == 0 else timedelta()
    sign_in_id = str(UUID(int=rng.getrandbits(128), version=4))
    return SignIn(
        key=f"{NEWEST_FIRST - int(created.timestamp()):014d} {sign_in_id}",
        id=sign_in_id,
        created=created,
        shown=created + late,
        person_id=person.id,
        upn=person.upn,
        name=person.display_name,
        app=rng.choice(APPS),
        client=rng.choice(CLIENTS),
        error=0 if person.enabled and rng.random() < 0.93 else rng.choice(list(ERRORS)[1:]),
        address=f"203.0.113.{rng.randrange(1, 255)}",
    )


def row(sign_in: SignIn) -> dict[str, Any]:
    return {
        "id": sign_in.id,
        "createdDateTime": wire_time(sign_in.created),
        "userDisplayName": sign_in.name,
        "userPrincipalName": sign_in.upn,
        "userId": sign_in.person_id,
        "appId": str(UUID(int=0x1F_0000 + APPS.index(sign_in.app))),
        "appDisplayName": sign_in.app,
        "ipAddress": sign_in.address,
        "clientAppUsed": sign_in.client,
        "correlationId": str(UUID(int=UUID(sign_in.id).int ^ 0xFFFF)),
        "conditionalAccessStatus": "failure" if sign_in.error == 53003 else "notApplied",
        "isInteractive": True,
        "riskDetail": "none",
        "riskLevelAggregated": "none",
        "riskLevelDuringSignIn": "none",
        "riskState": "none",
        "riskEventTypes_v2": [],
        "resourceDisplayName": sign_in.app,
        "status": {"errorCode": sign_in.error, "failureReason": ERRORS[sign_in.error], "additionalDetails": None},
        "deviceDetail": {"deviceId": "", "displayName": "", "operatingSystem": "Windows", "browser": "Edge"},
        "location": {"city": "Lisbon", "state": "Lisboa", "countryOrRegion": "PT"},
    }


PROPERTIES = (
    *("id", "createdDateTime", "userDisplayName", "userPrincipalName", "userId", "appId", "appDisplayName"),
    *("ipAddress", "clientAppUsed", "correlationId", "conditionalAccessStatus", "isInteractive", "riskDetail"),
    *("riskLevelAggregated", "riskLevelDuringSignIn", "riskState", "riskEventTypes_v2", "resourceDisplayName"),
    *("status", "deviceDetail", "location"),
)
COMPARED: dict[str, Callable[[SignIn], Any]] = {
    "createdDateTime": lambda s: s.created,
    "userId": lambda s: s.person_id,
    "userPrincipalName": lambda s: s.upn,
}
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "eq": operator.eq,
}


def sign_ins(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    require_premium(call.tenant)
    for name in query.select or ():
        if name not in PROPERTIES:
            raise unknown_property(name, "signIn")
    if call.options.get("$orderby", "createdDateTime desc").lower() != "createddatetime desc":
        raise Refused(400, "Request_UnsupportedQuery", "Sign-ins are ordered by createdDateTime desc only.")
    size = page_size(query, PAGE_MOST, PAGE_MOST)
    tenant = call.tenant
    log = call.views.logs.get((identity(tenant), tenant.now), lambda: logged(tenant))
    found = {s.key: s for s in _filtered(call, log, query.filter)}

    def encoded(key: str) -> bytes:
        whole = row(found[key])
        return encode(whole if query.select is None else {name: whole[name] for name in query.select})

    return page_of(call, query, route="sign-ins", context="auditLogs/signIns", ids=list(found), row=encoded, size=size)


def _filtered(call: Call, found: Sequence[SignIn], text: str | None) -> Sequence[SignIn]:
    for clause in re.split(r"\s+and\s+", text.strip("() ")) if text else ():
        if (types := EVENT_TYPES.fullmatch(clause)) is not None:
            if call.version == "v1.0":
                raise unknown_property("signInEventTypes", "signIn")
            found = found if types[2] == "interactiveUser" else []
            continue
        compared = COMPARISON.fullmatch(clause)
        if compared is None or compared[1] not in COMPARED:
            raise Refused(400, "Request_BadRequest", f"Invalid filter clause: {clause[:120]}")
        value = _operand(compared[1], compared[3])
        of, holds = COMPARED[compared[1]], OPERATORS[compared[2]]
        found = [sign_in for sign_in in found if holds(of(sign_in), value)]
    return found


def _operand(name: str, text: str) -> Any:
    if name != "createdDateTime":
        return text.strip("'")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(400, "Request_BadRequest", f"Invalid date and time in the filter: {text[:40]}") from error
    if moment.tzinfo is None:
        raise Refused(400, "Request_BadRequest", f"A date and time in a filter needs an offset: {text[:40]}")
    return moment
