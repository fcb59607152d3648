"""What every client of an Azure Key Vault shares: how it calls, and what its errors mean."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from domain.errors import NotAllowed, StoreUnavailable

CALL: Mapping[str, Any] = {"retry_total": 4, "connection_timeout": 5, "read_timeout": 20}
SETTLED_SECONDS = 60.0


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
        if error.status_code == 403:
            raise NotAllowed(command, f"the Key Vault refuses it ({code_of(error)})", grant) from None
        raise StoreUnavailable("Key Vault", f"{error.status_code} {code_of(error)}") from None
    except AzureError as error:
        raise StoreUnavailable("Key Vault", type(error).__name__) from None


def code_of(error: HttpResponseError) -> str:
    """Key Vault's error code, or the first line of what azure-identity says."""
    code = getattr(error.error, "code", None)
    return str(code) if code else str(error.message).partition("\n")[0][:200]
