"""Azure Key Vault's secrets and keys APIs, one vault at the root of the simulator's address.

The wire of azure-keyvault-secrets 4.12 and azure-keyvault-keys 4.11 (api-version 2026-04-01 down to 7.0),
learn.microsoft.com/rest/api/keyvault.
The vault belongs to one tenant, its home: the first one whose setting `key_vault` is true, or simply the first one.
Settings of the home tenant: `key_vault_roles` ({client id: grant}, a grant being a role name, operations, or both by
the name of one secret or key with `*` for the rest; without the setting everybody of the tenant may do everything),
`key_vault_polls` (looks until a deletion or a recovery is visible), `key_vault_purge_protection` (true: nothing can be
purged), `key_vault_retention_days` (7 to 90), `key_vault_sku` ("premium" has an HSM, "standard" has none).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from simulator.faults import answered
from simulator.keyvault_items import RECOVERABLE_DAYS, Retention, VaultRefused, bad_parameter
from simulator.keyvault_operations import Perform, key_operations, secret_operations
from simulator.keyvault_wire import body
from simulator.tokens import Claims, Issuer, TokenRejected
from simulator.world import KEY_VAULT, Fault, Tenant, World

TRUTH: dict[str, Callable[[Tenant], list[dict[str, Any]]]] = {}
POLLS_UNTIL_SEEN = 1

VERSIONS_OF_THE_API = frozenset({
    "2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01", "2026-04-01",
})  # fmt: skip

SECRET_ACTIONS = {
    "get": "secrets/getSecret/action",
    "set": "secrets/setSecret/action",
    "update": "secrets/update/action",
    "list": "secrets/readMetadata/action",
    "delete": "secrets/delete",
    "recover": "secrets/recover/action",
    "purge": "secrets/purge/action",
}
KEY_ACTIONS = {
    "keys.get": "keys/read",
    "keys.list": "keys/read",
    "keys.create": "keys/create/action",
    "keys.update": "keys/update/action",
    "keys.delete": "keys/delete",
    "keys.recover": "keys/recover/action",
    "keys.purge": "keys/purge/action",
    "keys.wrap": "keys/wrap/action",
    "keys.unwrap": "keys/unwrap/action",
}
ACTIONS = {**SECRET_ACTIONS, **KEY_ACTIONS}
"""Operation to the data action that Azure RBAC grants."""

ROLES = {
    "Key Vault Secrets User": frozenset({"get", "list"}),
    "Key Vault Reader": frozenset({"list", "keys.get", "keys.list"}),
    "Key Vault Secrets Officer": frozenset(SECRET_ACTIONS),
    "Key Vault Crypto User": frozenset({"keys.get", "keys.list", "keys.update", "keys.wrap", "keys.unwrap"}),
    "Key Vault Crypto Officer": frozenset(KEY_ACTIONS),
    "Key Vault Administrator": frozenset(ACTIONS),
}
"""Built-in roles. That of a caller who may write and not read is a custom one: a set of operations."""


def routes(world: World, issuer: Issuer) -> list[BaseRoute]:
    def operation(name: str, perform: Perform) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            home = _home(world)
            if home is None:
                return Response(status_code=404)

            async def produce(_fault: Fault | None) -> Response:
                try:
                    _authorise(issuer, home, name, request)
                    request.state.retention = _retention(home)
                    return perform(request, home, await body(request))
                except VaultRefused as refusal:
                    return _error(issuer, home, refusal)

            return await answered(world, home.id, f"keyvault.{name}", request, produce, _refuse)

        return endpoint

    table = (*secret_operations(issuer, _polls), *key_operations(issuer, _polls))
    return [Route(path, operation(name, perform), methods=[method]) for method, path, name, perform in table]


def _home(world: World) -> Tenant | None:
    """The vault's own tenant; a world without tenants has no vault."""
    tenants = list(world.tenants.values())
    return next((tenant for tenant in tenants if tenant.settings.get("key_vault")), next(iter(tenants), None))


def _polls(home: Tenant) -> int:
    return int(home.settings.get("key_vault_polls", POLLS_UNTIL_SEEN))


def _authorise(issuer: Issuer, home: Tenant, operation: str, request: Request) -> None:
    """Token first, then the version of the API, then the caller's role, in the order of the service."""
    try:
        claims = issuer.verify(request.headers.get("authorization"), KEY_VAULT)
    except TokenRejected as error:
        missing = not request.headers.get("authorization")
        text = "AKV10000: Request is missing a Bearer or PoP token." if missing else f"AKV10022: {error.reason}"
        raise VaultRefused(401, "Unauthorized", text) from error
    if claims.tenant_id != home.id:
        raise VaultRefused(
            401,
            "Unauthorized",
            f"AKV10032: Invalid issuer. Expected one of https://sts.windows.net/{home.id}/, "
            f"found https://sts.windows.net/{claims.tenant_id}/.",
        )
    if request.query_params.get("api-version") not in VERSIONS_OF_THE_API:
        raise bad_parameter("The specified api-version is invalid or missing.")
    roles = home.settings.get("key_vault_roles")
    if roles is not None and operation not in _granted(roles.get(claims.app_id, ()), request.path_params.get("name")):
        raise VaultRefused(403, "Forbidden", _not_authorised(claims, operation, request), "ForbiddenByRbac")


def _granted(grant: Any, name: str | None) -> Collection[str]:
    """The operations on the secret or key of this name: those of the whole vault, and those of that one alone."""
    if isinstance(grant, Mapping):
        return {*_granted(grant.get("*", ()), None), *_granted(grant.get(name, ()), None)}
    return ROLES.get(grant, ()) if isinstance(grant, str) else grant


def _retention(home: Tenant) -> Retention:
    days = int(home.settings.get("key_vault_retention_days", RECOVERABLE_DAYS))
    return Retention(days, not home.settings.get("key_vault_purge_protection"))


def _not_authorised(claims: Claims, operation: str, request: Request) -> str:
    return (
        "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role "
        "definitions were changed recently, please observe propagation time.\r\n"
        f"Caller: appid={claims.app_id};oid={claims.subject};iss=https://sts.windows.net/{claims.tenant_id}/\r\n"
        f"Action: 'Microsoft.KeyVault/vaults/{ACTIONS[operation]}'\r\nResource: '{request.url.path}'\r\n"
        "Assignment: (not found)\r\nDenyAssignmentId: null\r\nDecisionReason: null\r\n"
    )


def _error(issuer: Issuer, home: Tenant, refusal: VaultRefused) -> Response:
    error: dict[str, Any] = {"code": refusal.code, "message": refusal.message}
    if refusal.inner:
        error["innererror"] = {"code": refusal.inner}
    headers = {}
    if refusal.status == 401:
        authority = f"{issuer.origin}/{home.id}"
        headers["WWW-Authenticate"] = f'Bearer authorization="{authority}", resource="{KEY_VAULT}"'
    return JSONResponse({"error": error}, refusal.status, headers)


def _refuse(status: int, headers: dict[str, str]) -> Response:
    throttled = (
        "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached"
    )
    code, message = ("Throttled", throttled) if status == 429 else ("InternalError", "An internal error occurred.")
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
