"""What can be asked of the secrets and of the keys of a Key Vault, as rows: method, path, operation, what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from simulator.keyvault_items import Item, Items, Version, attributes
from simulator.keyvault_keys import Keys, Material, jwk
from simulator.keyvault_secrets import Secrets
from simulator.keyvault_wire import deletion, identity, page, retention_of
from simulator.tokens import Issuer
from simulator.world import Tenant

V = TypeVar("V")
Body: TypeAlias = dict[str, Any]
Perform: TypeAlias = Callable[[Request, Tenant, Body], Response]
Operation: TypeAlias = tuple[str, str, str, Perform]
Looks: TypeAlias = Callable[[Tenant], int]
Shown: TypeAlias = Callable[[Request, Item[V], Version[V]], Body]


def secret_operations(issuer: Issuer, looks: Looks) -> Sequence[Operation]:
    secrets = Secrets()

    def put(request: Request, home: Tenant, body: Body) -> Response:
        return JSONResponse(_secret_value(request, *secrets.put(request.path_params["name"], body, issuer.now())))

    table = _common(secrets, "secrets", issuer, looks, shown=_secret_shown, got=_secret_value, listed=_secret_listed)
    return (("PUT", "/secrets/{name}", "set", put), *table)


def _secret_shown(request: Request, item: Item[str], version: Version[str]) -> Body:
    """A version without its value."""
    content_type = {"contentType": version.content_type} if version.content_type is not None else {}
    return {
        "id": identity(request, "secrets", item, version),
        **content_type,
        "attributes": attributes(version, retention_of(request)),
        "tags": version.tags,
    }


def _secret_value(request: Request, item: Item[str], version: Version[str]) -> Body:
    return {"value": version.value, **_secret_shown(request, item, version)}


def _secret_listed(request: Request, item: Item[str], version: Version[str]) -> Body:
    return {**_secret_shown(request, item, version), "id": identity(request, "secrets", item)}


def key_operations(issuer: Issuer, looks: Looks) -> Sequence[Operation]:
    keys = Keys()

    def create(request: Request, home: Tenant, body: Body) -> Response:
        premium = home.settings.get("key_vault_sku") == "premium"
        made = keys.create(request.path_params["name"], body, issuer.now(), premium=premium)
        return JSONResponse(_key_shown(request, *made))

    def used(use: Callable[[str, str, Body], tuple[Item[Material], Version[Material], str]]) -> Perform:
        def perform(request: Request, home: Tenant, body: Body) -> Response:
            name, version_id = request.path_params["name"], request.path_params.get("version", "")
            item, version, value = use(name, version_id, body)
            return JSONResponse({"kid": identity(request, "keys", item, version), "value": value})

        return perform

    return (
        ("POST", "/keys/{name}/create", "keys.create", create),
        ("POST", "/keys/{name}/{version}/wrapkey", "keys.wrap", used(keys.wrap)),
        ("POST", "/keys/{name}/{version}/unwrapkey", "keys.unwrap", used(keys.unwrap)),
        *_common(keys, "keys", issuer, looks, shown=_key_shown, got=_key_shown, listed=_key_listed),
    )


def _key_shown(request: Request, item: Item[Material], version: Version[Material]) -> Body:
    key = {"kid": identity(request, "keys", item, version), **jwk(version.value)}
    return {"key": key, "attributes": attributes(version, retention_of(request)), "tags": version.tags}


def _key_listed(request: Request, item: Item[Material], version: Version[Material]) -> Body:
    return {
        "kid": identity(request, "keys", item),
        "attributes": attributes(version, retention_of(request)),
        "tags": version.tags,
    }


def _common(
    items: Items[V],
    place: str,
    issuer: Issuer,
    looks: Looks,
    *,
    shown: Shown[V],
    got: Shown[V],
    listed: Shown[V],
) -> Sequence[Operation]:
    """What secrets and keys both do. `place`: secrets or keys. `shown`: a version as most answers have it, `got`: as
    `get` has it, `listed`: as lists have it."""
    gone = f"deleted{place}"
    prefix = "" if place == "secrets" else f"{place}."

    def get(request: Request, home: Tenant, body: Body) -> Response:
        found = items.get(request.path_params["name"], request.path_params.get("version", ""))
        return JSONResponse(got(request, *found))

    def update(request: Request, home: Tenant, body: Body) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version", "")
        return JSONResponse(shown(request, *items.update(name, version, body, issuer.now())))

    def list_present(request: Request, home: Tenant, body: Body) -> Response:
        return page(request, [(item.name, listed(request, item, item.latest)) for item in items.present()])

    def list_versions(request: Request, home: Tenant, body: Body) -> Response:
        name = request.path_params["name"]
        return page(request, [(version.id, versioned(request, name, version)) for version in items.versions(name)])

    def versioned(request: Request, name: str, version: Version[V]) -> Body:
        item: Item[V] = Item(name)
        field = "id" if place == "secrets" else "kid"
        return {**listed(request, item, version), field: identity(request, place, item, version)}

    def list_gone(request: Request, home: Tenant, body: Body) -> Response:
        return page(request, [(item.name, tombstone(request, item, listed)) for item in items.gone()])

    def tombstone(request: Request, item: Item[V], form: Shown[V]) -> Body:
        return {**deletion(request, gone, item), **form(request, item, item.latest)}

    def delete(request: Request, home: Tenant, body: Body) -> Response:
        deleted = items.delete(request.path_params["name"], issuer.now(), looks(home))
        return JSONResponse(tombstone(request, deleted, shown))

    def get_deleted(request: Request, home: Tenant, body: Body) -> Response:
        return JSONResponse(tombstone(request, items.deleted(request.path_params["name"]), shown))

    def recover(request: Request, home: Tenant, body: Body) -> Response:
        item = items.recover(request.path_params["name"], looks(home))
        return JSONResponse(shown(request, item, item.latest))

    def purge(request: Request, home: Tenant, body: Body) -> Response:
        items.purge(request.path_params["name"], retention_of(request))
        return Response(status_code=204)

    table: Sequence[tuple[str, str, str, Perform]] = (
        ("GET", f"/{place}", "list", list_present),
        ("GET", f"/{place}/{{name}}/versions", "list", list_versions),
        ("GET", f"/{place}/{{name}}", "get", get),
        ("GET", f"/{place}/{{name}}/", "get", get),
        ("GET", f"/{place}/{{name}}/{{version}}", "get", get),
        ("PATCH", f"/{place}/{{name}}", "update", update),
        ("PATCH", f"/{place}/{{name}}/", "update", update),
        ("PATCH", f"/{place}/{{name}}/{{version}}", "update", update),
        ("DELETE", f"/{place}/{{name}}", "delete", delete),
        ("GET", f"/{gone}", "list", list_gone),
        ("GET", f"/{gone}/{{name}}", "list", get_deleted),
        ("POST", f"/{gone}/{{name}}/recover", "recover", recover),
        ("DELETE", f"/{gone}/{{name}}", "purge", purge),
    )
    return [(method, path, prefix + operation, perform) for method, path, operation, perform in table]
