"""The Exchange admin REST API: cmdlets over HTTPS, one by one or in batches.

Paging is this API's own: the same body is POSTed again to `@odata.nextLink`, with the same X-AnchorMailbox.
Settings of a tenant: `exchange_role` (True), `exchange_concurrency` (None: unlimited), `exchange_rate_headers` (False),
`exchange_rate_limit` (30000 in five minutes), `exchange_page_cap` (1000 rows), `exchange_page_seconds` (1800).
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulator import mailboxes
from simulator.bodies import bounded, parsed
from simulator.cmdlets import CLOUD, CmdletRefused, call
from simulator.exchange_answers import (
    CONTENT_TYPE,
    Answer,
    Walk,
    Walks,
    annotated,
    forbidden,
    page,
    refused,
    refused_cmdlet,
)
from simulator.faults import WIRE, answered, delay, record, retry_after
from simulator.tokens import Issuer, TokenRejected
from simulator.world import EXCHANGE, Fault, Tenant, World

MOST_BATCH_ITEMS = 20
MOST_BODY_BYTES = 4 << 20
RATE_WINDOW_SECONDS = 300
PAGE_SIZE = re.compile(r"odata\.maxpagesize\s*=\s*(\d{1,9})", re.IGNORECASE)
COMMAND_PATH = re.compile(r"/adminapi/beta/([^/]+)/InvokeCommand", re.IGNORECASE)

TRUTH: dict[str, Callable[[Tenant], list[dict[str, Any]]]] = {
    "mailboxes": lambda t: _truth(t, "Get-Mailbox"),
    "mailbox-statistics": lambda t: [
        annotated(mailboxes.statistics(t, person)) for person in mailboxes.cloud_people(t)
    ],
    "cas-mailboxes": lambda t: _truth(t, "Get-CASMailbox"),
    "transport-rules": lambda t: _truth(t, "Get-TransportRule"),
    "organization-config": lambda t: _truth(t, "Get-OrganizationConfig"),
    "accepted-domains": lambda t: _truth(t, "Get-AcceptedDomain"),
}
"""Every row of each dataset, with its annotations, as it comes without `$select`."""


def _truth(tenant: Tenant, name: str) -> list[dict[str, Any]]:
    cmdlet = CLOUD[name.lower()]
    return [annotated(cmdlet.row(tenant, subject)) for subject in cmdlet.subjects(tenant)]


@dataclass(frozen=True, slots=True)
class Command:
    """One cmdlet to run: by itself, or an item of a batch. `skip_token` goes on with an earlier one."""

    tenant: Tenant
    origin: str
    name: str
    parameters: Mapping[str, Any]
    select: frozenset[str]
    page_size: int
    anchor: str | None
    skip_token: str | None

    @property
    def route(self) -> str:
        return f"exchange.{self.name.lower()}"

    @property
    def content(self) -> Mapping[str, Any]:
        return {"name": self.name, "parameters": self.parameters, "select": sorted(self.select)}


@dataclass(slots=True)
class Traffic:
    """What is under way and what was used: per tenant id."""

    in_flight: Counter[str] = field(default_factory=Counter)
    used: dict[str, tuple[float, int]] = field(default_factory=dict)

    def count(self, tenant: Tenant) -> tuple[int, dict[str, str]]:
        """Requests left in the tenant's window after this one, and the headers that say so, if switched on."""
        now = time.time()
        began, used = self.used.get(tenant.id, (now, 0))
        if now - began >= RATE_WINDOW_SECONDS:
            began, used = now, 0
        self.used[tenant.id] = (began, used + 1)
        limit = int(tenant.settings.get("exchange_rate_limit", 30_000))
        left = limit - used - 1
        if not tenant.settings.get("exchange_rate_headers", False):
            return left, {}
        reset = datetime.fromtimestamp(began + RATE_WINDOW_SECONDS, UTC).isoformat()
        return left, {
            "Rate-Limit-Limit": str(limit),
            "Rate-Limit-Remaining": str(max(0, left)),
            "Rate-Limit-Reset": reset,
        }


def routes(world: World, issuer: Issuer) -> list[BaseRoute]:
    walks, traffic = Walks(), Traffic()

    async def invoke(request: Request) -> Response:
        tenant = world.tenant(request.path_params["tenant"])
        if tenant is None:
            return Response(status_code=401)
        command = read_command(tenant, request, str(request.url), await _body(request), request.headers)

        async def produce(fault: Fault | None) -> Response:
            denied = admitted(issuer, tenant, request)
            if denied is not None:
                return denied
            left, rate = traffic.count(tenant)
            if left < 0:
                return _response(refused("rate", {"Retry-After": "30"}), rate)
            most = tenant.settings.get("exchange_concurrency")
            if most is not None and traffic.in_flight[tenant.id] > most:
                return _response(refused("concurrency"), rate)
            if command is None:
                return _response(refused("malformed"), rate)
            return _response(perform(walks, command, fault), rate, command.page_size)

        route = command.route if command else "exchange.unknown"
        traffic.in_flight[tenant.id] += 1
        try:
            return await answered(world, tenant.id, route, request, produce, _refuse, own=FAULTS)
        finally:
            traffic.in_flight[tenant.id] -= 1

    async def batch(request: Request) -> Response:
        tenant = world.tenant(request.path_params["tenant"])
        if tenant is None:
            return Response(status_code=401)
        content = await _body(request)

        async def produce(fault: Fault | None) -> Response:
            denied = admitted(issuer, tenant, request)
            if denied is not None:
                return denied
            _left, rate = traffic.count(tenant)
            if fault is not None:
                return _response(FAULT_ANSWERS[fault.kind](), rate)
            items = content.get("requests") if isinstance(content, dict) else None
            if not isinstance(items, list) or len(items) > MOST_BATCH_ITEMS:
                return _response(refused("malformed"), rate)
            done = [await _item(world, walks, tenant, request, item) for item in items]
            body = msgspec.json.encode({"responses": done[::-1]})
            return _response(Answer(200, body), rate)

        return await answered(world, tenant.id, "exchange.batch", request, produce, _refuse, own=FAULT_ANSWERS)

    async def not_allowed(_request: Request) -> Response:
        return Response(status_code=405, headers={"Allow": "POST"})

    return [
        Route("/adminapi/beta/{tenant}/InvokeCommand", invoke, methods=["POST"]),
        Route("/adminapi/beta/{tenant}/InvokeCommand", not_allowed, methods=["GET"]),
        Route("/adminapi/v1.0/{tenant}/InvokeCommand", not_allowed, methods=["GET", "POST"]),
        Route("/adminapi/beta/{tenant}/$batch", batch, methods=["POST"]),
    ]


def admitted(issuer: Issuer, tenant: Tenant, request: Request) -> Response | None:
    """None for a token of this tenant, for Exchange, of an app with a role; otherwise the answer that refuses."""
    try:
        claims = issuer.verify(request.headers.get("authorization"), EXCHANGE)
    except TokenRejected:
        return Response(status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
    if claims.tenant_id != tenant.id:
        return Response(status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_tenant"'})
    return None if tenant.settings.get("exchange_role", True) else _response(forbidden(), {})


def read_command(tenant: Tenant, request: Request, url: str, body: Any, headers: Mapping[str, str]) -> Command | None:
    """The command in a CmdletInput body with its query and headers; None if it is not one."""
    given = body.get("CmdletInput") if isinstance(body, dict) else None
    if not isinstance(given, dict) or not isinstance(given.get("CmdletName"), str):
        return None
    parameters = given.get("Parameters") or {}
    if not isinstance(parameters, dict):
        return None
    query = parse_qs(url.partition("?")[2])
    lowered = {name.lower(): value for name, value in headers.items()}
    preferred = PAGE_SIZE.search(lowered.get("prefer", ""))
    cap = int(tenant.settings.get("exchange_page_cap", 1000))
    return Command(
        tenant=tenant,
        origin=f"{request.url.scheme}://{request.url.netloc}",
        name=given["CmdletName"],
        parameters={name: value for name, value in parameters.items() if not name.startswith("@")},
        select=frozenset(
            name.strip().lower() for name in ",".join(query.get("$select", ())).split(",") if name.strip()
        ),
        page_size=max(1, min(int(preferred[1]) if preferred else cap, cap)),
        anchor=lowered.get("x-anchormailbox"),
        skip_token=next(iter(query.get("$skiptoken", ())), None),
    )


FAULT_ANSWERS: Mapping[str, Callable[[], Answer]] = {
    "transient": lambda: refused("transient"),
    "error-in-200": lambda: refused("unavailable", status=200),
    "nul-body": forbidden,
}
FAULTS = FAULT_ANSWERS.keys() | {"warning", "expired-page-token"}
"""What can befall a cmdlet, beside the faults of the wire."""


def perform(walks: Walks, command: Command, fault: Fault | None) -> Answer:
    """Run the cmdlet, or go on with its walk, and give one page."""
    kind = fault.kind if fault else None
    if kind is not None and kind in FAULT_ANSWERS:
        return FAULT_ANSWERS[kind]()
    tenant, offset, name = command.tenant, 0, None
    if command.skip_token is None:
        try:
            result = call(CLOUD, tenant, command.name, command.parameters)
        except CmdletRefused as error:
            return refused_cmdlet(error)
        walk = Walk(result, command.content, command.anchor, time.monotonic(), warnings=list(result.warnings))
    else:
        lifetime = timedelta(seconds=float(tenant.settings.get("exchange_page_seconds", 1800)))
        try:
            name, walk, offset = walks.find(command.skip_token, command.content, command.anchor, lifetime)
        except KeyError:
            return refused("expired-page")
    if kind == "warning" and fault is not None:
        walk.warnings.append(str(fault.options.get("text", "The results may be incomplete.")))
    if kind == "expired-page-token":
        walk.expired = True
        if name:
            return refused("expired-page")
    end = offset + command.page_size
    last = end >= len(walk.result.subjects)
    link = None if last else _next_link(command, name or walks.keep(walk), end)
    warnings = walk.warnings if last else ()
    body = page(
        [annotated(walk.result.row(tenant, subject), command.select) for subject in walk.result.subjects[offset:end]],
        context=f"{command.origin}/adminapi/beta/{tenant.id}/$metadata#Collection(Exchange.GenericHashTable)",
        warnings=warnings,
        next_link=link,
    )
    return Answer(200, body)


def _next_link(command: Command, walk: str, offset: int) -> str:
    server = f"{mailboxes.stable_guid(command.tenant, 'backend').hex[:8].upper()}.PROD.OUTLOOK.COM"
    token = quote(f"{server}|{walk}|{offset}", safe="")
    select = f"$select={','.join(sorted(command.select))}&" if command.select else ""
    return f"{command.origin}/adminapi/beta/{command.tenant.id}/InvokeCommand?{select}$skiptoken={token}"


async def _item(world: World, walks: Walks, tenant: Tenant, request: Request, item: Any) -> dict[str, Any]:
    """The answer to one request of a batch, with the fault its own route has; one that breaks connections is a 504."""
    item = item if isinstance(item, dict) else {}
    url, given = str(item.get("url", "")), item.get("headers") or {}
    addressed = COMMAND_PATH.search(url.partition("?")[0])
    same = addressed is not None and world.tenant(addressed[1]) is tenant and isinstance(given, dict)
    headers = {**dict(request.headers), **{str(k).lower(): str(v) for k, v in given.items()}} if same else {}
    command = read_command(tenant, request, url, item.get("body"), headers) if same else None
    if command is None or str(item.get("method", "POST")).upper() != "POST":
        return _item_answer(item, refused("malformed"))
    answer = await _item_performed(walks, command, world.take_fault(tenant.id, command.route, WIRE | FAULTS))
    record(world, tenant.id, command.route, request.url.path, answer.status)
    return _item_answer(item, answer)


async def _item_performed(walks: Walks, command: Command, fault: Fault | None) -> Answer:
    match fault:
        case Fault(kind="throttle", options=options):
            return refused("rate", retry_after(options, 1))
        case Fault(kind="error", options=options):
            return refused("unavailable", retry_after(options), int(options.get("status", 503)))
        case Fault(kind="reset" | "cut"):
            return refused("unavailable", status=504)
        case Fault(kind="slow", options=options):
            await delay(options)
            return perform(walks, command, None)
        case _:
            return perform(walks, command, fault)


def _item_answer(item: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    readable = "Content-Encoding" not in answer.headers
    return {
        "id": item.get("id"),
        "status": answer.status,
        "headers": {"Content-Type": CONTENT_TYPE, **answer.headers},
        "body": msgspec.Raw(answer.body) if readable else None,
    }


async def _body(request: Request) -> Any:
    """The JSON of the request, or None if it is none or is larger than `MOST_BODY_BYTES`."""
    content = await bounded(request, MOST_BODY_BYTES)
    try:
        return None if content is None else parsed(content)
    except ValueError:
        return None


def _refuse(status: int, headers: dict[str, str]) -> Response:
    return _response(refused("rate" if status == 429 else "unavailable", headers, status), {})


def _response(answer: Answer, rate: Mapping[str, str], page_size: int | None = None) -> Response:
    headers = {"OData-Version": "4.0", **rate, **answer.headers}
    if page_size is not None and answer.status == 200:
        headers["Preference-Applied"] = f"odata.maxpagesize={page_size}"
    return Response(answer.body, answer.status, headers, media_type=CONTENT_TYPE)
