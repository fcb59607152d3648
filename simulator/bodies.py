"""Bodies of requests, no longer than they may be."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request


async def bounded(request: Request, most_bytes: int) -> bytes | None:
    """The body, or None when it is longer than `most_bytes`; what comes after that is not kept."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most_bytes:
            return None
    return bytes(content)


def parsed(content: bytes) -> Any:
    """JSON in UTF-8, its texts too. Raises `ValueError` for anything else, however deep it nests."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("it is no JSON, or nests too deeply") from error
