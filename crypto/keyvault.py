"""A secret store in an Azure Key Vault, through Microsoft's own client.

Text is stored as it is, so that an operator may put an envelope with `az keyvault secret set`; other bytes are base64,
which the content type says. Who sets credentials needs `set` only, who releases them `get` (docs/sealing.md).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from azure.core.credentials import TokenCredential
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import DeletedSecret, SecretClient

from crypto.azurevault import (
    FORBIDDEN,
    REFUSED,
    SETTLED_SECONDS,
    SETTLING_SECONDS,
    explained,
    inner_code_of,
    options,
    retained,
    verification,
)
from crypto.stores import MAX_VALUE, checked_name, checked_value
from domain.errors import Malformed, NotAllowed, SecretMissing, StoreUnavailable, Unreadable
from domain.events import Retained

TEXT = "text/plain"
BINARY = "application/octet-stream;base64"
AT_ONCE = 10
"""As many connections as Azure's client keeps open."""
_DISABLED = "SecretDisabled"
_NEVER = datetime.min.replace(tzinfo=UTC)
_GRANT = "Grant it on the Key Vault: docs/sealing.md has the least role of each process."
_RECOVER = "Grant `recover`, have it purged, or wait until the vault's retention ends."


def vault_identity(authority: str = "", ca_bundle: str = "") -> TokenCredential:
    """azure-identity's default chain. `authority` and `ca_bundle`: for a cloud outside the public one, else empty.

    A named authority is trusted as it is named: nobody asks login.microsoftonline.com about it.
    """
    named: dict[str, Any] = {"authority": authority, "disable_instance_discovery": True} if authority else {}
    return DefaultAzureCredential(**named, **verification(ca_bundle))


class KeyVaultSecretStore:
    at_once = AT_ONCE

    def __init__(self, url: str, identity: TokenCredential, *, ca_bundle: str = "") -> None:
        """`url`: the vault's origin. Connects at the first call."""
        self._identity = identity
        self._client = SecretClient(url, identity, **options(url, ca_bundle))

    def get(self, name: str) -> bytes:
        with explained(f"read secret {checked_name(name)}", _GRANT):
            try:
                found = self._client.get_secret(name)
            except ResourceNotFoundError:
                raise SecretMissing(name) from None
            except HttpResponseError as error:
                if inner_code_of(error) != _DISABLED:
                    raise
                why = "it is disabled in the Key Vault"
                raise Unreadable("secret", name, why, "Enable it there, or delete it.") from None
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
                self._recover(name)
                stored = self._client.set_secret(name, text, **facts)
        return stored.properties.version or ""

    def _recover(self, name: str) -> None:
        try:
            self._settle(self._client.begin_recover_deleted_secret(name))
        except HttpResponseError as error:
            if error.status_code != FORBIDDEN:
                raise
            why = "it was deleted, the Key Vault still keeps it, and this identity may not recover it"
            raise NotAllowed(f"write secret {name}", why, _RECOVER) from None

    def exchange(self, name: str, former: bytes, value: bytes) -> bool:
        """Key Vault cannot compare and set. The newest version that other writers have set meanwhile is set again, on
        top. The vault tells their order in seconds."""
        before = self._versions(name).keys()
        try:
            if self.get(name) != former:
                return False
        except SecretMissing:
            return False
        ours = self.put(name, value)
        after = self._versions(name)
        theirs = after.keys() - before - {ours}
        if not theirs:
            return True
        newest = max(theirs, key=lambda version: after[version])
        with explained(f"read secret {name}", _GRANT):
            found = self._client.get_secret(name, newest)
        self.put(name, _decode(name, found.value or "", found.properties.content_type))
        return False

    def _versions(self, name: str) -> dict[str, datetime]:
        """When each was made."""
        with explained("list versions", _GRANT):
            listed = self._client.list_properties_of_secret_versions(checked_name(name))
            return {one.version or "": one.created_on or _NEVER for one in listed}

    def delete(self, name: str) -> Retained | None:
        """Deletes all versions and purges them.

        Where the vault or the identity's grant forbids purging, who may recover secrets can have it back until the
        vault's retention ends.
        """
        with explained(f"delete secret {checked_name(name)}", _GRANT):
            deleted = self._deleted(name)
            try:
                self._purge(name)
            except ResourceNotFoundError:
                return None
            except HttpResponseError as error:
                if error.status_code not in REFUSED:
                    raise
                return self._retained(name, deleted)
        return None

    def _deleted(self, name: str) -> DeletedSecret | None:
        try:
            operation = self._client.begin_delete_secret(name)
        except ResourceNotFoundError:
            return None
        self._settle(operation)
        deleted: DeletedSecret = operation.result()
        return deleted

    def _purge(self, name: str) -> None:
        """An identity that may not look at deleted secrets does not see when the deletion has ended: 409 until then."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while True:
            try:
                self._client.purge_deleted_secret(name)
            except ResourceExistsError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(SETTLING_SECONDS)
            else:
                return

    def _retained(self, name: str, deleted: DeletedSecret | None) -> Retained | None:
        """`deleted`: as this deletion saw it, None when it was deleted before, if ever."""
        try:
            found = deleted or self._client.get_deleted_secret(name)
        except ResourceNotFoundError:
            return None
        except HttpResponseError as error:
            if error.status_code != FORBIDDEN:
                raise
            return Retained(name=name, until=None, why="unseen")
        return retained(name, found.properties.recovery_level, found.scheduled_purge_date)

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
