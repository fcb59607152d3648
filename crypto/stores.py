"""Where sealed credentials and keys rest: a directory, an Azure Key Vault, or memory.

What is stored as a credential or a data key is ciphertext already; the store's own protection comes on top. Names are
those that Key Vault allows, so a directory can move there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol
from uuid import uuid4

from domain.errors import Malformed, SecretMissing
from domain.events import Retained
from domain.ids import Slot, TenantId, slot, tenant_id

EVENT_KEY = "event-key"
LEDGER_KEY = "ledger-key"
MAX_VALUE = 25_000
"""Bytes of one value as Key Vault counts them (its documented 25 KB)."""
MAX_TAGS = 15
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,125}[a-z0-9])?")
_TAG = re.compile(r"[\x20-\x7e]{1,256}")
_CREDENTIAL = re.compile(r"credential-([0-9a-f-]{36})-([a-z-]+)")
_DATA_KEY = re.compile(r"datakey-([0-9a-f-]{36})")


class SecretStore(Protocol):
    """Values by name. Every method raises `Malformed` for a bad name, `StoreUnavailable` when it cannot be reached and
    `NotAllowed` when this identity may not."""

    def get(self, name: str) -> bytes:
        """The newest value; raises `SecretMissing`, and `Unreadable` for one that is not as it was put."""
        ...

    def put(self, name: str, value: bytes, tags: Mapping[str, str] = ...) -> str:
        """Replaces the value, all of it or nothing, without reading it. The version it got."""
        ...

    def exchange(self, name: str, former: bytes, value: bytes) -> bool:
        """`put`, if the value is still `former`; whether it was."""
        ...

    @property
    def at_once(self) -> int:
        """Calls under way together that are faster than one after the other."""
        ...

    def delete(self, name: str) -> Retained | None:
        """Afterwards it is not there, in no version; deleting what is not there is done already. What the store keeps
        of it nevertheless, None when nothing."""
        ...

    def names(self, prefix: str) -> list[str]:
        """In order, those that begin with `prefix`."""
        ...


def credential_name(tenant: TenantId, name: Slot) -> str:
    return f"credential-{tenant_id(tenant)}-{slot(name)}"


def credential_of(name: str) -> tuple[TenantId, Slot]:
    """The inverse; raises `Malformed`."""
    match = _CREDENTIAL.fullmatch(name)
    if match is None:
        raise Malformed("credential name", name, "credential-<tenant>-<slot>")
    return tenant_id(match[1]), slot(match[2])


def data_key_name(tenant: TenantId) -> str:
    return f"datakey-{tenant_id(tenant)}"


def data_key_of(name: str) -> TenantId:
    """The inverse; raises `Malformed`."""
    match = _DATA_KEY.fullmatch(name)
    if match is None:
        raise Malformed("data key name", name, "datakey-<tenant>")
    return tenant_id(match[1])


def put_data_key(store: SecretStore, tenant: TenantId, wrapped: str) -> None:
    store.put(data_key_name(tenant), wrapped.encode(), {"tenant": tenant, "kind": "data-key"})


def checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Malformed("secret name", name, "1 to 127 lower-case letters, digits and hyphens")
    return name


def checked_value(value: bytes, tags: Mapping[str, str]) -> None:
    if not 0 < len(value) <= MAX_VALUE:
        raise Malformed("secret value", f"{len(value)} bytes", f"1 to {MAX_VALUE} bytes")
    if len(tags) > MAX_TAGS or not all(_TAG.fullmatch(text) for pair in tags.items() for text in pair):
        raise Malformed("set of tags", f"{len(tags)} tags", f"at most {MAX_TAGS}, of 1 to 256 printable characters")


class MemorySecretStore:
    """For tests: gone with its process."""

    at_once = 1

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def get(self, name: str) -> bytes:
        try:
            return self._values[checked_name(name)]
        except KeyError:
            raise SecretMissing(name) from None

    def put(self, name: str, value: bytes, tags: Mapping[str, str] = {}) -> str:
        checked_value(value, tags)
        self._values[checked_name(name)] = bytes(value)
        return uuid4().hex

    def exchange(self, name: str, former: bytes, value: bytes) -> bool:
        if self._values.get(checked_name(name)) != former:
            return False
        self.put(name, value)
        return True

    def delete(self, name: str) -> None:
        self._values.pop(checked_name(name), None)

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._values if name.startswith(prefix))
