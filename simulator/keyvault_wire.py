"""What the secrets and the keys of a Key Vault have in common on the wire."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from simulator.bodies import bounded, parsed
from simulator.keyvault_items import Item, Retention, VaultRefused, Version, bad_parameter, purge_date

PAGE = 25
LONGEST_BODY = 256 * 1024


async def body(request: Request) -> dict[str, Any]:
    content = await bounded(request, LONGEST_BODY)
    if content is None:
        raise VaultRefused(413, "RequestEntityTooLarge", "The request body is too large.")
    try:
        given = parsed(content or b"{}")
    except ValueError as error:
        raise bad_parameter("The request body is not valid JSON.") from error
    if not isinstance(given, dict):
        raise bad_parameter("The request body must be a JSON object.")
    return given


def identity(request: Request, place: str, item: Item[Any], version: Version[Any] | None = None) -> str:
    """`place`: secrets, keys, deletedsecrets or deletedkeys."""
    end = f"/{version.id}" if version else ""
    return f"https://{request.headers.get('host', '')}/{place}/{item.name}{end}"


def deletion(request: Request, place: str, item: Item[Any]) -> dict[str, Any]:
    """What an item that was deleted says besides itself."""
    deleted = item.deleted
    return {
        "recoveryId": identity(request, place, item),
        **(
            {
                "deletedDate": int(deleted.timestamp()),
                "scheduledPurgeDate": purge_date(deleted, retention_of(request)),
            }
            if deleted
            else {}
        ),
    }


def retention_of(request: Request) -> Retention:
    """Of the vault that is asked, see `simulator.keyvault`."""
    retention: Retention = request.state.retention
    return retention


def page(request: Request, items: Sequence[tuple[str, dict[str, Any]]]) -> Response:
    """Up to 25 items whose keys come after the `$skiptoken`, and the link to the rest."""
    query = request.query_params
    try:
        size = int(query.get("maxresults", PAGE))
        after = base64.urlsafe_b64decode(query.get("$skiptoken", "")).decode()
    except (ValueError, binascii.Error) as error:
        raise bad_parameter("The maxresults or $skiptoken parameter is not valid.") from error
    if not 1 <= size <= PAGE:
        raise bad_parameter(f"The maxresults parameter must be between 1 and {PAGE}.")
    rest = [item for item in items if item[0] > after]
    link = None
    if len(rest) > size:
        token = base64.urlsafe_b64encode(rest[size - 1][0].encode()).decode()
        more = {"api-version": query["api-version"], "$skiptoken": token, "maxresults": size}
        link = f"https://{request.headers.get('host', '')}{request.url.path}?{urlencode(more, safe='$')}"
    return JSONResponse({"value": [item for _, item in rest[:size]], "nextLink": link})
