"""Microsoft Graph: one table of endpoints, asked over HTTPS or inside a `$batch`.

Every call meets, in this order: its token, a fault of the world, the permission, its query options, the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulator import graph_batch as batch
from simulator import graph_reports as reports
from simulator import graph_signins as signins
from simulator.bodies import bounded
from simulator.faults import WIRE, answered, delay, record, retry_after
from simulator.graph_endpoints import Endpoint, found
from simulator.graph_paging import DOOMED_BY, read_query
from simulator.graph_rows import GROUP, USER, organization_row, sku_row, units_consumed
from simulator.graph_throttle import Quotas, units
from simulator.graph_wire import Answer, Call, Refused, Views, error_body, refusal, refusal_of, response
from simulator.tokens import Issuer, TokenRejected
from simulator.world import GRAPH, Fault, Tenant, World

VERSIONS = ("v1.0", "beta")


def _error_in_200(call: Call) -> Answer:
    """A 200 whose body is an error, as Graph's gateway has been seen to give."""
    body = error_body("UnknownError", "An unknown error has occurred.", call.now, call.request_id, call.request_id)
    return Answer(200, body)


FAULTY: Mapping[str, Callable[[Call], Answer]] = {
    "error-in-200": _error_in_200,
    "nul-body": lambda call: Answer(200, b"\0" * 64),
}


def _kinds(endpoint: Endpoint | None) -> set[str]:
    """The faults of Graph itself that can befall a request there. A page link dies where there are such links."""
    allowed = endpoint.allowed if endpoint is not None else frozenset()
    return FAULTY.keys() | {doom for doom, option in DOOMED_BY.items() if option in allowed}


@dataclass(slots=True)
class Graph:
    """The service: the world it shows, and what it keeps between calls."""

    world: World
    issuer: Issuer
    quotas: Quotas = field(default_factory=Quotas)
    views: Views = field(default_factory=Views)

    async def receive(self, request: Request, version: str) -> Response:
        """Answer one request to `/v1.0` or `/beta`."""
        request_id = str(uuid4())
        try:
            claims = self.issuer.verify(request.headers.get("authorization"), GRAPH)
        except TokenRejected as rejected:
            return self._unknown_caller(request, request_id, "InvalidAuthenticationToken", str(rejected))
        tenant = self.world.tenant(claims.tenant_id)
        if tenant is None:
            message = "The identity of the calling application could not be established."
            return self._unknown_caller(request, request_id, "Authorization_IdentityNotFound", message)
        call = Call(
            tenant=tenant,
            claims=claims,
            origin=f"{request.url.scheme}://{request.headers.get('host', request.url.netloc)}",
            version=version,
            path=request.path_params["path"].strip("/"),
            options=dict(request.query_params),
            headers=dict(request.headers),
            now=self.issuer.now(),
            views=self.views,
            request_id=request_id,
        )
        endpoint, args = found(call.path)
        body = await bounded(request, batch.BODY_LIMIT) if call.path == "$batch" else b""

        def sent(answer: Answer) -> Response:
            return response(answer, call.request_id, call.client_request_id)

        async def produce(fault: Fault | None) -> Response:
            if call.path == "$batch":
                return sent(await self._batch(call, request.method, body, fault))
            return sent(self._perform(call, request.method, endpoint, args, fault))

        def refuse(status: int, headers: dict[str, str]) -> Response:
            return sent(refusal_of(call, status, headers))

        route = "batch" if call.path == "$batch" else endpoint.route if endpoint else "unknown"
        return await answered(self.world, tenant.id, route, request, produce, refuse, own=_kinds(endpoint))

    def _unknown_caller(self, request: Request, request_id: str, code: str, message: str) -> Response:
        client_request_id = request.headers.get("client-request-id", request_id)
        challenge = (
            'Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", '
            'client_id="00000003-0000-0000-c000-000000000000"'
        )
        body = error_body(code, message, self.issuer.now(), request_id, client_request_id)
        answer = Answer(401, body, {"WWW-Authenticate": challenge}, "application/json")
        return response(answer, request_id, client_request_id)

    async def _batch(self, call: Call, method: str, body: bytes | None, fault: Fault | None) -> Answer:
        try:
            if method != "POST":
                raise Refused(405, "Request_BadRequest", "A batch is posted.")
            if fault is not None:
                return FAULTY[fault.kind](call)
            return await batch.perform(call, batch.read(body), self._item)
        except Refused as refused:
            return refusal(call, refused)

    async def _item(self, call: Call, method: str) -> Answer:
        """One request of a batch, with the fault its own route has; one that breaks connections is a 504 here."""
        endpoint, args = found(call.path)
        route = endpoint.route if endpoint else "unknown"
        fault = self.world.take_fault(call.tenant.id, route, WIRE | _kinds(endpoint))
        options = fault.options if fault is not None else {}
        match fault.kind if fault is not None else None:
            case "throttle":
                answer = refusal_of(call, 429, retry_after(options, 1))
            case "error":
                answer = refusal_of(call, int(options.get("status", 503)), retry_after(options))
            case "reset" | "cut":
                answer = refusal_of(call, 504, {})
            case "slow":
                await delay(options)
                answer = self._perform(call, method, endpoint, args, None)
            case _:
                answer = self._perform(call, method, endpoint, args, fault)
        record(self.world, call.tenant.id, route, f"/{call.version}/{call.path}", answer.status)
        return answer

    def _perform(
        self, call: Call, method: str, endpoint: Endpoint | None, args: tuple[str, ...], fault: Fault | None
    ) -> Answer:
        try:
            if endpoint is None:
                segment = call.path.partition("/")[0]
                raise Refused(400, "BadRequest", f"Resource not found for the segment '{segment[:80]}'.")
            if method != "GET":
                raise Refused(405, "Request_BadRequest", f"{method[:10]} is not allowed on this resource.")
            if fault is not None and fault.kind in FAULTY:
                return FAULTY[fault.kind](call)
            if endpoint.role in call.tenant.settings.get("missing_roles", ()):
                raise Refused(403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
            query = read_query(call, endpoint.route, endpoint.allowed, fault)
            headers = self.quotas.charge(call, endpoint.route, endpoint.quota, units(endpoint.cost, query))
            answer = endpoint.answer(call, query, args)
        except Refused as refused:
            return refusal(call, refused)
        return Answer(answer.status, answer.body, {**headers, **answer.headers}, answer.media_type)


def routes(world: World, issuer: Issuer) -> list[BaseRoute]:
    """Graph at `/v1.0` and `/beta`, and the report files at `/data/download`. The issuer's clock is Graph's too."""
    graph = Graph(world, issuer)
    methods = ["GET", "POST", "PATCH", "PUT", "DELETE"]
    return [
        *(Route(f"/{version}/{{path:path}}", _endpoint(graph, version), methods=methods) for version in VERSIONS),
        Route("/data/download/{ticket}", reports.downloads(world, graph.views, issuer.now)),
    ]


def _endpoint(graph: Graph, version: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await graph.receive(request, version)

    return endpoint


def _members(tenant: Tenant) -> list[dict[str, Any]]:
    return [{"groupId": g, "id": p} for g in sorted(tenant.groups) for p in sorted(tenant.groups[g].member_ids)]


def _owners(tenant: Tenant) -> list[dict[str, Any]]:
    owned = ((g, p) for g in sorted(tenant.groups) for p in sorted(tenant.groups[g].owner_ids))
    return [{"groupId": group_id, "id": person_id} for group_id, person_id in owned if person_id in tenant.people]


def _users(tenant: Tenant) -> list[dict[str, Any]]:
    return [{name: value(tenant, tenant.people[i]) for name, value in USER.items()} for i in sorted(tenant.people)]


def _groups(tenant: Tenant) -> list[dict[str, Any]]:
    return [{name: value(tenant, tenant.groups[i]) for name, value in GROUP.items()} for i in sorted(tenant.groups)]


def _skus(tenant: Tenant) -> list[dict[str, Any]]:
    consumed = units_consumed(tenant)
    return [sku_row(tenant, sku, consumed) for sku in tenant.skus]


TRUTH: dict[str, Callable[[Tenant], list[dict[str, Any]]]] = {
    "organization": lambda tenant: [organization_row(tenant)],
    "users": _users,
    "groups": _groups,
    "group-members": _members,
    "group-owners": _owners,
    "subscribed-skus": _skus,
    "sign-ins": lambda tenant: [signins.row(sign_in) for sign_in in signins.logged(tenant)],
    "active-users": lambda tenant: [
        dict(zip(reports.COLUMNS, row, strict=True)) for row in reports.active_user_rows(tenant)
    ],
}
