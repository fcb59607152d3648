"""A secret store in an Azure Key Vault, through Microsoft's own client.

Text is stored as it is, so that an operator may put an envelope with `az keyvault secret set`; other bytes are base64,
which the content type says. Who sets credentials needs `set` (and `recover`) only, who releases them `get`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog
from azure.core.credentials import TokenCredential
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient

from crypto.azurevault import CALL, SETTLED_SECONDS, code_of, explained, is_loopback
from crypto.stores import MAX_VALUE, checked_name, checked_value
from domain.errors import Malformed, SecretMissing, StoreUnavailable, Unreadable

TEXT = "text/plain"
BINARY = "application/octet-stream;base64"
_GRANT = "Grant it on the Key Vault (Key Vault Secrets User to read, Secrets Officer to write)."


def vault_identity(authority: str = "", ca_bundle: str = "") -> TokenCredential:
    """azure-identity's default chain. `authority` and `ca_bundle`: for a cloud outside the public one, else empty.

    A named authority is trusted as it is named: nobody asks login.microsoftonline.com about it.
    """
    named: dict[str, Any] = {"authority": authority, "disable_instance_discovery": True} if authority else {}
    return DefaultAzureCredential(**named, **_verification(ca_bundle))


class KeyVaultSecretStore:
    def __init__(self, url: str, identity: TokenCredential, *, ca_bundle: str = "") -> None:
        """`url`: the vault's origin. Connects at the first call."""
        self._url = url
        self._identity = identity
        self._client = SecretClient(
            url, identity, verify_challenge_resource=not is_loopback(url), **_verification(ca_bundle), **CALL
        )

    def get(self, name: str) -> bytes:
        with explained(f"read secret {checked_name(name)}", _GRANT):
            try:
                found = self._client.get_secret(name)
            except ResourceNotFoundError:
                raise SecretMissing(name) from None
        return _decode(name, found.value or "", found.properties.content_type)

    def put(self, name: str, value: bytes, tags: Mapping[str, str] = {}) -> str:
        """A name that was deleted and is still retained is recovered first: Key Vault keeps it taken meanwhile."""
        checked_value(value, tags)
        text, content_type = _encode(value)
        facts: dict[str, Any] = {"content_type": content_type, "tags": dict(tags)}
        with explained(f"write secret {checked_name(name)}", _GRANT):
            try:
                stored = self._client.set_secret(name, text, **facts)
            except ResourceExistsError:
                self._settle(self._client.begin_recover_deleted_secret(name))
                stored = self._client.set_secret(name, text, **facts)
        return stored.properties.version or ""

    def exchange(self, name: str, former: bytes, value: bytes, tags: Mapping[str, str] = {}) -> bool:
        """Key Vault cannot compare and set. A version that another writer has set meanwhile is set again, on top."""
        before = self._versions(name)
        try:
            if self.get(name) != former:
                return False
        except SecretMissing:
            return False
        ours = self.put(name, value, tags)
        theirs = self._versions(name) - before - {ours}
        for version in theirs:
            with explained(f"read secret {name}", _GRANT):
                found = self._client.get_secret(name, version)
            self.put(name, _decode(name, found.value or "", found.properties.content_type), tags)
        return not theirs

    def _versions(self, name: str) -> set[str]:
        with explained("list versions", _GRANT):
            return {one.version or "" for one in self._client.list_properties_of_secret_versions(checked_name(name))}

    def delete(self, name: str) -> None:
        """Deletes all versions and purges them.

        Where the vault forbids purging, the secret is deleted and its administrator can recover it until the vault's
        retention ends; a warning says so.
        """
        with explained(f"delete secret {checked_name(name)}", _GRANT):
            with suppress(ResourceNotFoundError):
                self._settle(self._client.begin_delete_secret(name))
            try:
                self._client.purge_deleted_secret(name)
            except HttpResponseError as error:
                if error.status_code == 404:
                    return
                if error.status_code not in (400, 403):
                    raise
                structlog.get_logger().warning("secret-retained", name=name, store=self._url, why=code_of(error))

    def names(self, prefix: str) -> list[str]:
        with explained("list secrets", _GRANT):
            listed = [found.name or "" for found in self._client.list_properties_of_secrets()]
        return sorted(name for name in listed if name.startswith(prefix))

    def close(self) -> None:
        """Closes the connections, those of the identity too."""
        self._client.close()
        if isinstance(self._identity, DefaultAzureCredential):
            self._identity.close()

    @staticmethod
    def _settle(operation: Any) -> None:
        """Key Vault deletes and recovers in the background."""
        operation.wait(SETTLED_SECONDS)
        if not operation.done():
            raise StoreUnavailable("Key Vault", f"an operation did not end within {SETTLED_SECONDS:.0f} s")


def _encode(value: bytes) -> tuple[str, str]:
    """Value and content type. Raises `Malformed` when base64 makes it longer than Key Vault takes."""
    if value.isascii() and b"\x00" not in value:
        return value.decode(), TEXT
    text = base64.b64encode(value).decode()
    if len(text) > MAX_VALUE:
        raise Malformed("secret value", f"{len(value)} bytes", f"at most {MAX_VALUE} bytes in base64")
    return text, BINARY


def _decode(name: str, text: str, content_type: str | None) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if content_type == BINARY else text.encode()
    except ValueError:
        raise Unreadable("secret", name, f"it is no base64 and says it is {BINARY}", "Put the secret again.") from None


def _verification(ca_bundle: str) -> dict[str, Any]:
    return {"connection_verify": ca_bundle} if ca_bundle else {}
