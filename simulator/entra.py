"""Entra ID: discovery, user realms, and the token endpoint with its grants.

learn.microsoft.com/entra/identity-platform, v2.0 endpoints. Addresses in documents follow the Host header, so clients
may come by the simulator's own address or by the real host name directed here.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from simulator.aadsts import STATUS_CODES, SignInRefused, entra_headers, error_answer
from simulator.bodies import bounded
from simulator.entra_documents import document_routes
from simulator.faults import UNKNOWN_TENANT, answered
from simulator.grants import SHARED_ENDPOINTS, asked, grant
from simulator.resources import RESOURCES
from simulator.tokens import Issuer
from simulator.world import Tenant, World

TRUTH: dict[str, Callable[[Tenant], list[dict[str, Any]]]] = {}
LONGEST_BODY = 64 * 1024
REFUSED = "aadsts"
"""The fault that a request for a token is refused with the option `code`."""


def routes(world: World, issuer: Issuer) -> list[BaseRoute]:
    async def token(request: Request) -> Response:
        name = request.path_params["tenant"].lower()
        correlation = request.headers.get("client-request-id")
        body = await bounded(request, LONGEST_BODY) or b""
        form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        tenant = world.tenant(name) or _tenant_of_user(world, name, form)

        def refused(code: int, texts: dict[str, str], headers: dict[str, str], status: int | None) -> Response:
            one_line = bool(tenant and tenant.settings.get("errors_on_one_line", False))
            known = {"tenant": tenant.name if tenant else name, "client": form.get("client_id", ""), **texts}
            return error_answer(
                code, known, issuer.now(), correlation, status=status, headers=headers, one_line=one_line
            )

        def refuse(status: int, headers: dict[str, str]) -> Response:
            return refused(STATUS_CODES.get(status, 90033), {}, headers, status)

        async def produce(fault: Any) -> Response:
            try:
                if fault is not None:
                    raise SignInRefused(int(fault.options.get("code", 90033)), {"user": form.get("username", "")})
                host = f"https://{request.headers.get('host', '')}"
                shown = {**form, **_basic(request.headers.get("authorization"))}
                granted = grant(issuer, asked(shown, name, tenant, host, issuer.now()))
            except SignInRefused as refusal:
                return refused(refusal.code, refusal.texts, {}, None)
            headers = entra_headers(str(uuid.uuid4()))
            if correlation and request.headers.get("return-client-request-id", "").lower() == "true":
                headers["client-request-id"] = correlation
            return JSONResponse(granted, headers=headers)

        tenant_id = tenant.id if tenant else UNKNOWN_TENANT
        return await answered(world, tenant_id, "token", request, produce, refuse, own=(REFUSED,))

    async def admin_consent(request: Request) -> Response:
        tenant = world.tenant(request.path_params["tenant"])
        client_id, back = request.query_params.get("client_id", ""), request.query_params.get("redirect_uri", "")
        app = tenant.apps.get(client_id) if tenant else None
        if tenant is None or app is None:
            code = 90002 if tenant is None else 700016
            return error_answer(
                code, {"tenant": request.path_params["tenant"], "client": client_id}, issuer.now(), None
            )
        app.consented.update(RESOURCES.values())
        answer = {"admin_consent": "True", "tenant": tenant.id, "state": request.query_params.get("state", "")}
        return RedirectResponse(f"{back}?{urlencode(answer)}", 302) if back else JSONResponse(answer)

    return [
        *document_routes(world, issuer),
        Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
        Route("/{tenant}/adminconsent", admin_consent, methods=["GET"]),
    ]


def _tenant_of_user(world: World, name: str, form: Mapping[str, str]) -> Tenant | None:
    """On a shared endpoint the user's domain says which tenant is meant."""
    return world.tenant(form.get("username", "").rpartition("@")[2]) if name in SHARED_ENDPOINTS else None


def _basic(authorization: str | None) -> dict[str, str]:
    """Client id and secret of HTTP Basic authentication, form-encoded inside it (RFC 6749, 2.3.1)."""
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return {}
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise SignInRefused(50027, {}) from error
    return {"client_id": unquote_plus(user), "client_secret": unquote_plus(password)}
