"""The simulator's own controls, under `/_simulator/`: look inside, switch faults on, let a working day pass.

`GET  /_simulator/`                         what there is
`GET  /_simulator/tenants[/{tenant}]`       tenants, their settings, the states of their apps and accounts; no secrets
`PATCH /_simulator/tenants/{tenant}`        `{"settings": {...}, "apps": {client id: state}, "accounts": {name: state}}`
`GET  /_simulator/truth/{tenant}/{dataset}` every row there is, as the service would send it (`?items=no`: the number)
`GET | PUT | DELETE /_simulator/faults`     a fault is `{"tenant", "route", "kind", "times", "after", "options"}`; shown
                                            with `taken`: how many requests met it
`POST /_simulator/change`                   `{"tenant": id | "*", "fraction": 0.01}`
`GET | DELETE /_simulator/requests`         the last answered requests (`?tenant=&route=`)
`GET  /_simulator/counters`                 answered requests by tenant, route and status, since the start

A tenant is named by its id or a domain. A mistake is answered with 400 or 404 and `{"error": sentence}`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from simulator.bodies import bounded, parsed
from simulator.population import change
from simulator.tokens import Issuer
from simulator.world import Fault, SignInState, Tenant, World

TRUTH: dict[str, Callable[[Tenant], list[dict[str, Any]]]] = {}
LONGEST_BODY = 1024 * 1024
MOST_FAULTS = 10_000
ANY = "*"


class Mistaken(Exception):
    """A control request that cannot be carried out. args: the HTTP status, the sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status, self.sentence = status, sentence


Endpoint = Callable[[World, Request], Awaitable[Any]]


def routes(world: World, issuer: Issuer) -> list[BaseRoute]:
    def bound(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        @functools.wraps(endpoint)
        async def answer(request: Request) -> Response:
            try:
                content = json.dumps(await endpoint(world, request), default=_plain, ensure_ascii=False)
            except Mistaken as mistake:
                return JSONResponse({"error": mistake.sentence}, mistake.status)
            return Response(content, media_type="application/json")

        return answer

    return [Route(f"/_simulator/{path}", bound(endpoint), methods=[method]) for method, path, endpoint in CONTROLS]


async def _contents(world: World, request: Request) -> Any:
    controls = [f"{method} /_simulator/{path}" for method, path, _ in CONTROLS]
    return {"controls": controls, "tenants": len(world.tenants), "datasets": sorted(request.app.state.truths)}


async def _tenants(world: World, request: Request) -> Any:
    return [_described(tenant) for tenant in world.tenants.values()]


async def _one_tenant(world: World, request: Request) -> Any:
    return _described(_tenant(world, request.path_params["tenant"]))


async def _set_tenant(world: World, request: Request) -> Any:
    """Settings are added to those there are; one that is set to null returns to its default."""
    tenant, body = _tenant(world, request.path_params["tenant"]), await _body(request)
    if not isinstance(body, dict) or body.keys() - {"settings", "apps", "accounts"}:
        raise Mistaken(400, "A tenant's settings, apps and accounts can be changed, nothing else.")
    parts = {part: body.get(part, {}) for part in ("settings", "apps", "accounts")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise Mistaken(400, "settings, apps and accounts are objects.")
    chosen = [
        (_member(kind, present, name), _state(state))
        for kind, present in (("apps", tenant.apps), ("accounts", tenant.accounts))
        for name, state in parts[kind].items()
    ]
    for holder, state in chosen:
        holder.state = state
    for name, value in parts["settings"].items():
        tenant.settings.pop(name, None)
        if value is not None:
            tenant.settings[name] = value
    return _described(tenant)


async def _datasets(world: World, request: Request) -> Any:
    return sorted(request.app.state.truths)


async def _truth(world: World, request: Request) -> Any:
    tenant, dataset = _tenant(world, request.path_params["tenant"]), request.path_params["dataset"]
    truths = request.app.state.truths
    if dataset not in truths:
        raise Mistaken(404, f"There is no dataset {dataset}; there are {', '.join(sorted(truths))}.")
    items = truths[dataset](tenant)
    return {"rows": len(items)} | ({} if request.query_params.get("items") == "no" else {"items": items})


async def _faults(world: World, request: Request) -> Any:
    return [
        {
            "tenant": tenant,
            "route": route,
            "kind": f.kind,
            "times": f.times,
            "after": f.after,
            "options": f.options,
            "taken": f.taken,
        }
        for (tenant, route), faults in world.faults.items()
        for f in faults
    ]


async def _set_faults(world: World, request: Request) -> Any:
    """One fault or a list; they replace what was set for the same tenant and route."""
    body = await _body(request)
    wanted: dict[tuple[str, str], list[Fault]] = {}
    for given in body if isinstance(body, list) else [body]:
        key, fault = _fault(world, given)
        wanted.setdefault(key, []).append(fault)
    kept = sum(len(faults) for key, faults in world.faults.items() if key not in wanted)
    if kept + sum(map(len, wanted.values())) > MOST_FAULTS:
        raise Mistaken(400, f"At most {MOST_FAULTS} faults can be set.")
    world.faults.update(wanted)
    return await _faults(world, request)


async def _clear_faults(world: World, request: Request) -> Any:
    """All of them, or those of `?tenant=` and `?route=`."""
    tenant, route = request.query_params.get("tenant"), request.query_params.get("route")
    tenant_id = tenant if tenant in (None, ANY) else _tenant(world, str(tenant)).id
    for key in [k for k in world.faults if tenant_id in (None, k[0]) and route in (None, k[1])]:
        del world.faults[key]
    return await _faults(world, request)


async def _change(world: World, request: Request) -> Any:
    body = await _body(request)
    if not isinstance(body, dict) or not _is_number(fraction := body.get("fraction", 0.01)) or not 0 <= fraction <= 1:
        raise Mistaken(400, "The fraction is a number between 0 and 1.")
    name = str(body.get("tenant", ANY))
    tenants = list(world.tenants.values()) if name == ANY else [_tenant(world, name)]
    return {tenant.id: change(tenant, fraction) for tenant in tenants}


async def _requests(world: World, request: Request) -> Any:
    tenant, route = request.query_params.get("tenant"), request.query_params.get("route")
    return [
        {"tenant": of, "route": by, "path": path, "status": status}
        for of, by, path, status in world.requests
        if tenant in (None, of) and route in (None, by)
    ]


async def _forget_requests(world: World, request: Request) -> Any:
    world.requests.clear()
    return []


async def _counters(world: World, request: Request) -> Any:
    return [
        {"tenant": tenant, "route": route, "status": status, "requests": number}
        for (tenant, route, status), number in sorted(world.counters.items())
    ]


def _described(tenant: Tenant) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "domain": tenant.domain,
        "initial_domain": tenant.initial_domain,
        "name": tenant.name,
        "exchange_server": tenant.exchange_server,
        "people": len(tenant.people),
        "groups": len(tenant.groups),
        "sequence": tenant.sequence,
        "settings": tenant.settings,
        "apps": {app.client_id: app.state for app in tenant.apps.values()},
        "accounts": {account.upn: account.state for account in tenant.accounts.values()},
    }


def _tenant(world: World, name: str) -> Tenant:
    if (tenant := world.tenant(name)) is None:
        raise Mistaken(404, f"There is no tenant {name}.")
    return tenant


def _fault(world: World, given: Any) -> tuple[tuple[str, str], Fault]:
    if not isinstance(given, dict) or not isinstance(given.get("kind"), str):
        raise Mistaken(400, "A fault is an object and has at least a kind.")
    tenant, route = str(given.get("tenant", ANY)), str(given.get("route", ANY))
    times, after, options = given.get("times", 1), given.get("after", 0), given.get("options", {})
    counts = [after] if times is None else [times, after]
    if not isinstance(options, dict) or not all(type(n) is int and n >= 0 for n in counts):
        raise Mistaken(400, "times (or null) and after are numbers from 0, options is an object.")
    tenant_id = tenant if tenant == ANY else _tenant(world, tenant).id
    return (tenant_id, route), Fault(given["kind"], times, after, options)


def _member(kind: str, present: dict[str, Any], name: str) -> Any:
    if name not in present:
        raise Mistaken(404, f"There is no {name} among the tenant's {kind}.")
    return present[name]


def _state(name: Any) -> SignInState:
    if name not in list(SignInState):
        raise Mistaken(400, f"{name} is no state; the states are {', '.join(SignInState)}.")
    return SignInState(name)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


async def _body(request: Request) -> Any:
    content = await bounded(request, LONGEST_BODY)
    if content is None:
        raise Mistaken(413, "The request body is too large.")
    try:
        return parsed(content)
    except ValueError as error:
        raise Mistaken(400, "The request body is no JSON.") from error


def _plain(value: Any) -> Any:
    return (
        sorted(value) if isinstance(value, (set, frozenset)) else dict(value) if hasattr(value, "keys") else str(value)
    )


CONTROLS: tuple[tuple[str, str, Endpoint], ...] = (
    ("GET", "", _contents),
    ("GET", "tenants", _tenants),
    ("GET", "tenants/{tenant}", _one_tenant),
    ("PATCH", "tenants/{tenant}", _set_tenant),
    ("GET", "truth", _datasets),
    ("GET", "truth/{tenant}/{dataset}", _truth),
    ("GET", "faults", _faults),
    ("PUT", "faults", _set_faults),
    ("DELETE", "faults", _clear_faults),
    ("POST", "change", _change),
    ("GET", "requests", _requests),
    ("DELETE", "requests", _forget_requests),
    ("GET", "counters", _counters),
)
