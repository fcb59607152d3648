"""What every client of an Azure Key Vault shares: how it calls, and what its errors mean."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import SansIOHTTPPolicy

from domain.errors import NotAllowed, StoreUnavailable
from domain.events import Retained

CALL: Mapping[str, Any] = {"retry_total": 4, "connection_timeout": 5, "read_timeout": 20}
SETTLED_SECONDS = 60.0
SETTLING_SECONDS = 1.0
PAUSE_SECONDS = 1.0
"""After a 429 that does not say how long, the first of the waits that Key Vault's guide to throttling asks for."""
TOO_MANY, FORBIDDEN = 429, 403
REFUSED = (400, FORBIDDEN)
"""What a Key Vault answers to a purge, or to a key of its HSM, that it does not allow."""


class Pause(SansIOHTTPPolicy[Any, Any]):
    """What one request of a client is told by a 429 holds for all: until then none is sent. The retries are Azure's."""

    def __init__(self) -> None:
        self._until = 0.0

    def on_request(self, request: PipelineRequest[Any]) -> None:
        left = self._until - time.monotonic()
        if left > 0:
            time.sleep(left)

    def on_response(self, request: PipelineRequest[Any], response: PipelineResponse[Any, Any]) -> None:
        if response.http_response.status_code == TOO_MANY:
            told = response.http_response.headers.get("Retry-After", "")
            wait = float(told) if told.isdecimal() else PAUSE_SECONDS
            self._until = max(self._until, time.monotonic() + wait)


def options(url: str, ca_bundle: str) -> dict[str, Any]:
    """Of a client of the vault at `url`. `ca_bundle`: PEM file, empty for public authorities."""
    return {
        "verify_challenge_resource": not is_loopback(url),
        "per_retry_policies": [Pause()],
        **verification(ca_bundle),
        **CALL,
    }


def verification(ca_bundle: str) -> dict[str, Any]:
    return {"connection_verify": ca_bundle} if ca_bundle else {}


def is_loopback(url: str) -> bool:
    """Only there may a vault's host differ from the resource it asks a token for."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def explained(command: str, grant: str) -> Iterator[None]:
    """Azure's errors as ours. `grant`: what to do where the identity may not."""
    try:
        yield
    except ClientAuthenticationError as error:
        raise NotAllowed(
            command, f"the Key Vault identity cannot sign in ({code_of(error)})", "Check AZURE_*."
        ) from None
    except HttpResponseError as error:
        if error.status_code == FORBIDDEN:
            raise NotAllowed(command, f"the Key Vault refuses it ({code_of(error)})", grant) from None
        raise StoreUnavailable("Key Vault", f"{error.status_code} {code_of(error)}") from None
    except AzureError as error:
        raise StoreUnavailable("Key Vault", type(error).__name__) from None


def retained(name: str, recovery_level: str | None, until: datetime | None) -> Retained:
    """What a vault keeps of something deleted that it did not purge: its recovery level says whether anybody may."""
    purgeable = "Purgeable" in (recovery_level or "Purgeable")
    return Retained(name=name, until=until, why="purge-refused" if purgeable else "purge-protected")


def code_of(error: HttpResponseError) -> str:
    """Key Vault's error code, or the first line of what azure-identity says."""
    code = getattr(error.error, "code", None)
    return str(code) if code else str(error.message).partition("\n")[0][:200]


def inner_code_of(error: HttpResponseError) -> str:
    """What the error code is about, where the vault says that; else empty."""
    inner = getattr(error.error, "innererror", None) or {}
    return str(inner.get("code", ""))


def said_by(error: HttpResponseError) -> str:
    """The first line of Key Vault's own sentence."""
    said = getattr(error.error, "message", None) or error.message
    return str(said).partition("\n")[0].strip().rstrip(".")[:200]
