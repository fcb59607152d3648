"""Entra ID's documents: OpenID configuration, signing keys, instance discovery and user realms."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from simulator.aadsts import STATUS_CODES, entra_headers, error_answer
from simulator.faults import UNKNOWN_TENANT, answered
from simulator.tokens import Issuer
from simulator.world import Tenant, World

CACHED_FOR_A_DAY = {"Cache-Control": "max-age=86400, private"}
SHARED = {
    "common": "{tenantid}",
    "organizations": "{tenantid}",
    "consumers": "9188040d-6c67-4c5b-b112-36a304b66dad",
}
"""Tenants in name only, to the issuer's tenant in their documents."""
INSTANCES = (
    ("login.microsoftonline.com", "login.windows.net", ("login.microsoftonline.com", "login.windows.net",
     "login.microsoft.com", "sts.windows.net")),
    ("login.partner.microsoftonline.cn", "login.partner.microsoftonline.cn",
     ("login.partner.microsoftonline.cn", "login.chinacloudapi.cn")),
    ("login.microsoftonline.de", "login.microsoftonline.de", ("login.microsoftonline.de",)),
    ("login.microsoftonline.us", "login.microsoftonline.us", ("login.microsoftonline.us", "login.usgovcloudapi.net")),
    ("login-us.microsoftonline.com", "login-us.microsoftonline.com", ("login-us.microsoftonline.com",)),
)  # fmt: skip
"""Preferred network name, preferred cache name and aliases of each cloud's login service."""


def document_routes(world: World, issuer: Issuer) -> list[BaseRoute]:
    async def configuration(request: Request) -> Response:
        name = request.path_params["tenant"].lower()
        tenant = world.tenant(name)

        def refuse(status: int, headers: dict[str, str]) -> Response:
            code = STATUS_CODES.get(status, 90033)
            return error_answer(code, {"tenant": name}, issuer.now(), None, status=status, headers=headers)

        async def produce(_fault: Any) -> Response:
            if tenant is None and name not in SHARED:
                correlation = request.headers.get("client-request-id")
                return error_answer(90002, {"tenant": name}, issuer.now(), correlation)
            document = openid_configuration(f"https://{request.headers.get('host', '')}", name, tenant)
            return JSONResponse(document, headers={**entra_headers(str(uuid.uuid4())), **CACHED_FOR_A_DAY})

        return await answered(
            world, tenant.id if tenant else UNKNOWN_TENANT, "openid-configuration", request, produce, refuse
        )

    async def keys(_request: Request) -> Response:
        return JSONResponse(issuer.public_keys(), headers=CACHED_FOR_A_DAY)

    async def instance(request: Request) -> Response:
        asked = request.query_params.get("authorization_endpoint", "")
        host = asked.removeprefix("https://").partition("/")[0].lower()
        known = {alias for _, _, aliases in INSTANCES for alias in aliases}
        if host not in known | {request.headers.get("host", "").lower()}:
            return error_answer(50049, {}, issuer.now(), request.headers.get("client-request-id"))
        authority = asked.split("/oauth2/")[0]
        metadata = [
            {"preferred_network": network, "preferred_cache": cache, "aliases": list(aliases)}
            for network, cache, aliases in INSTANCES
        ]
        found = f"{authority}/v2.0/.well-known/openid-configuration"
        return JSONResponse({"tenant_discovery_endpoint": found, "api-version": "1.1", "metadata": metadata})

    async def user_realm(request: Request) -> Response:
        domain = request.path_params["user"].rpartition("@")[2]
        if world.tenant(domain) is None:
            return JSONResponse({"ver": "1.0", "account_type": "Unknown", "cloud_instance_name": "microsoftonline.com"})
        return JSONResponse(
            {
                "ver": "1.0",
                "account_type": "Managed",
                "domain_name": domain,
                "cloud_instance_name": "microsoftonline.com",
                "cloud_audience_urn": "urn:federation:MicrosoftOnline",
            }
        )

    return [
        Route("/common/discovery/instance", instance, methods=["GET"]),
        Route("/common/userrealm/{user}", user_realm, methods=["GET"]),
        Route("/{tenant}/v2.0/.well-known/openid-configuration", configuration, methods=["GET"]),
        Route("/{tenant}/.well-known/openid-configuration", configuration, methods=["GET"]),
        Route("/{tenant}/discovery/v2.0/keys", keys, methods=["GET"]),
    ]


def openid_configuration(host: str, name: str, tenant: Tenant | None) -> dict[str, Any]:
    """The metadata document as the service words it; `host` is `https://` and the name the client came by."""
    base = f"{host}/{name}"
    return {
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "token_endpoint_auth_methods_supported": [
            "client_secret_post",
            "private_key_jwt",
            "client_secret_basic",
            "self_signed_tls_client_auth",
        ],
        "jwks_uri": f"{base}/discovery/v2.0/keys",
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": f"{host}/{tenant.id if tenant else SHARED[name]}/v2.0",
        "request_uri_parameter_supported": False,
        "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo",
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
        "http_logout_supported": True,
        "frontchannel_logout_supported": True,
        "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
        "claims_supported": [
            "sub", "iss", "cloud_instance_name", "cloud_instance_host_name", "cloud_graph_host_name", "msgraph_host",
            "aud", "exp", "iat", "auth_time", "acr", "nonce", "preferred_username", "name", "tid", "ver", "at_hash",
            "c_hash", "email",
        ],
        "kerberos_endpoint": f"{base}/kerberos",
        "tenant_region_scope": tenant.settings.get("region", "EU") if tenant else None,
        "cloud_instance_name": "microsoftonline.com",
        "cloud_graph_host_name": "graph.windows.net",
        "msgraph_host": "graph.microsoft.com",
        "rbac_url": "https://pas.windows.net",
    }  # fmt: skip
