"""The usage report of active users: a redirect to a file that is fetched without a token and lives five minutes.

Columns: Graph reference, `reportRoot: getOffice365ActiveUserDetail`. With the setting `concealed_names` the report has
hashes in place of user names, as the Microsoft 365 admin centre's privacy setting does. The report is two days behind.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from simulator.faults import answered
from simulator.graph_paging import BAD_TOKEN, Query, seal, unseal
from simulator.graph_wire import Answer, Call, Refused, Views, encode, identity
from simulator.world import Fault, Person, Tenant, World

PERIODS = ("D7", "D30", "D90", "D180")
DATES_BACK = 30
BEHIND = timedelta(days=2)
FILE_LIFETIME = timedelta(minutes=5)
SERVICES = ("Exchange", "OneDrive", "SharePoint", "Skype For Business", "Yammer", "Teams")
SHARES = (220, 200, 12, 40, 235)
"""Of 256 people, how many use each service but Exchange."""
COLUMNS = (
    *("Report Refresh Date", "User Principal Name", "Display Name", "Is Deleted", "Deleted Date"),
    *(f"Has {service} License" for service in SERVICES),
    *(f"{service} Last Activity Date" for service in SERVICES),
    *(f"{service} License Assign Date" for service in SERVICES),
    "Assigned Products",
)


FAULTY: Mapping[str, bytes] = {
    "error-in-200": b'<?xml version="1.0"?><Error><Code>ServerBusy</Code><Message>Try again.</Message></Error>',
    "nul-body": bytes(64),
}
"""What a file is in place of itself, by the fault."""


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """The right to fetch one file until `expires` (seconds since 1970)."""

    expires: float
    refreshed: str


def active_user_rows(tenant: Tenant, refreshed: date | None = None) -> list[tuple[str, ...]]:
    """One row for each person with a licence, in the order of `COLUMNS`."""
    day = refreshed or (tenant.now - BEHIND).date()
    parts = {sku.id: sku.part_number for sku in tenant.skus}
    shown: Callable[[str], str] = _hidden if tenant.settings.get("concealed_names", False) else str
    people = (tenant.people[person_id] for person_id in sorted(tenant.people))
    return [_row(person, day, parts, shown) for person in people if person.sku_ids and person.created.date() <= day]


def _row(person: Person, day: date, parts: Mapping[str, str], shown: Callable[[str], str]) -> tuple[str, ...]:
    used = _in_use(person)
    active, since = min(person.last_sign_in.date(), day).isoformat(), person.created.date().isoformat()
    return (
        *(day.isoformat(), shown(person.upn), shown(person.display_name), "False", ""),
        *map(str, used),
        *(active if in_use else "" for in_use in used),
        *(since if in_use else "" for in_use in used),
        "+".join(parts.get(sku, sku) for sku in person.sku_ids),
    )


def _in_use(person: Person) -> list[bool]:
    """By service. Exchange needs a mailbox; the others are decided by the person's id: most for most, two for few."""
    drawn = bytes.fromhex(person.id[-12:])
    others = (byte < share for byte, share in zip(drawn, SHARES, strict=False))
    return [person.mailbox_guid is not None, *others]


def _hidden(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()


def active_users(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    """302 to the file. Refuses periods and days the service has no report for."""
    kind, value = args
    refreshed = (call.tenant.now - BEHIND).date()
    if kind == "period" and value not in PERIODS:
        raise Refused(400, "InvalidPeriod", f"The period must be one of {', '.join(PERIODS)}.")
    if kind == "date":
        refreshed = _day(call.tenant, value)
    ticket = Ticket((call.now + FILE_LIFETIME).timestamp(), refreshed.isoformat())
    location = f"{call.origin}/data/download/{call.tenant.id}.{seal(call.tenant, ticket)}"
    return Answer(302, b"", {"Location": location}, "text/plain")


def _day(tenant: Tenant, text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise Refused(400, "InvalidDate", f"The date must be YYYY-MM-DD, not {text[:20]}.") from error
    if not tenant.now.date() - timedelta(days=DATES_BACK) <= day <= tenant.now.date():
        raise Refused(400, "InvalidDate", f"Reports exist for the last {DATES_BACK} days.")
    return day


def report_settings(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    context = f"{call.origin}/{call.version}/$metadata#admin/reportSettings/$entity"
    concealed = bool(call.tenant.settings.get("concealed_names", False))
    return Answer(200, encode({"@odata.context": context, "displayConcealedNames": concealed}))


def downloads(world: World, views: Views, now: Callable[[], datetime]) -> Callable[[Request], Any]:
    """The endpoint of the files. A request that sends Authorization is refused: the address is the permission."""

    async def download(request: Request) -> Response:
        tenant_id, _, sealed = request.path_params["ticket"].partition(".")
        tenant = world.tenant(tenant_id)
        if tenant is None:
            return PlainTextResponse("There is no such file.", 404)
        found = tenant

        def refuse(status: int, headers: Mapping[str, str]) -> Response:
            return PlainTextResponse("The file cannot be given.", status, dict(headers))

        async def produce(fault: Fault | None) -> Response:
            if fault is not None:
                return Response(FAULTY[fault.kind], 200, media_type="application/octet-stream")
            return await asyncio.to_thread(_file, request, found, sealed, views, now())

        return await answered(world, found.id, "report-download", request, produce, refuse, own=FAULTY)

    return download


def _file(request: Request, tenant: Tenant, sealed: str, views: Views, now: datetime) -> Response:
    if "authorization" in request.headers:
        return PlainTextResponse("This address is pre-authenticated; send no Authorization.", 401)
    try:
        ticket = msgspec.msgpack.decode(unseal(tenant, sealed), type=Ticket)
    except BAD_TOKEN:
        return PlainTextResponse("There is no such file.", 404)
    if now.timestamp() > ticket.expires:
        return PlainTextResponse("The address has expired.", 403)
    concealed = bool(tenant.settings.get("concealed_names", False))
    mark = (identity(tenant), tenant.sequence, ticket.refreshed, concealed)
    body = views.files.get(mark, lambda: _csv(active_user_rows(tenant, date.fromisoformat(ticket.refreshed))))
    tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, {"ETag": tag})
    name = f"Office365ActiveUserDetail{ticket.refreshed}.csv"
    headers = {"ETag": tag, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(body, 200, headers, "application/octet-stream")


def _csv(rows: list[tuple[str, ...]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows((COLUMNS, *rows))
    return b"\xef\xbb\xbf" + text.getvalue().encode()
