"""The keys of a Key Vault, learn.microsoft.com/rest/api/keyvault/keys, without HTTP: RSA, and RSA-HSM by name.

What is done here: create, read, disable, delete, wrap and unwrap. A private half never leaves; `wrapkey` and
`unwrapkey` know RSA-OAEP-256, the one algorithm of theirs that is not deprecated.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from simulator.keyvault_items import Item, Items, VaultRefused, Version, bad_parameter

SIZES = (2048, 3072, 4096)
SOFTWARE, HARDWARE = "RSA", "RSA-HSM"
ALGORITHM = "RSA-OAEP-256"
OPERATIONS = ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey")
_PADDING = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


@dataclass(slots=True)
class Material:
    """`operations`: what the key may be used for. `kind`: RSA, or RSA-HSM, which is no other key here."""

    private: rsa.RSAPrivateKey = field(repr=False)
    operations: tuple[str, ...] = OPERATIONS
    kind: str = SOFTWARE


class Keys(Items[Material]):
    noun = "key"

    def create(
        self, name: str, body: Mapping[str, Any], now: datetime, *, premium: bool = False
    ) -> tuple[Item[Material], Version[Material]]:
        """A new version. Raises `VaultRefused` as `add` does, and 400 for a kind of key that there is none of here.

        The service's words to a standard vault are known (MicrosoftDocs/azure-docs#63888), their status is not: 400.
        """
        size, kind = body.get("key_size") or SIZES[0], body.get("kty")
        if kind not in (SOFTWARE, HARDWARE) or size not in SIZES:
            raise bad_parameter("Property kty or key_size is not valid: RSA of 2048, 3072 or 4096 bits.")
        if kind == HARDWARE and not premium:
            raise bad_parameter("Hardware key operation not allowed on standard vault")
        operations = _operations(body.get("key_ops"))
        material = Material(rsa.generate_private_key(public_exponent=65537, key_size=size), operations, kind)
        return self.add(name, material, body, now)

    def update(
        self, name: str, version_id: str, body: Mapping[str, Any], now: datetime
    ) -> tuple[Item[Material], Version[Material]]:
        item, version = super().update(name, version_id, body, now)
        if body.get("key_ops") is not None:
            version.value.operations = _operations(body["key_ops"])
        return item, version

    def get(self, name: str, version_id: str = "") -> tuple[Item[Material], Version[Material]]:
        """The public half of a disabled key can be read."""
        return self._version(name, version_id)

    def wrap(
        self, name: str, version_id: str, body: Mapping[str, Any]
    ) -> tuple[Item[Material], Version[Material], str]:
        item, version, value = self._used("wrapKey", name, version_id, body)
        try:
            return item, version, _encoded(version.value.private.public_key().encrypt(value, _PADDING))
        except ValueError as error:
            raise bad_parameter("The parameter is incorrect.") from error

    def unwrap(
        self, name: str, version_id: str, body: Mapping[str, Any]
    ) -> tuple[Item[Material], Version[Material], str]:
        item, version, value = self._used("unwrapKey", name, version_id, body)
        try:
            return item, version, _encoded(version.value.private.decrypt(value, _PADDING))
        except ValueError as error:
            raise bad_parameter("The parameter is incorrect.") from error

    def _used(
        self, operation: str, name: str, version_id: str, body: Mapping[str, Any]
    ) -> tuple[Item[Material], Version[Material], bytes]:
        """The key for one operation and the bytes it is asked to work on."""
        item, version = self._version(name, version_id)
        if not version.enabled:
            message = f"Operation {operation} is not allowed on a disabled key."
            raise VaultRefused(403, "Forbidden", message, "KeyDisabled")
        if operation not in version.value.operations:
            message = f"Operation {operation} is not permitted on this key."
            raise VaultRefused(403, "Forbidden", message, "KeyOperationForbidden")
        if body.get("alg") != ALGORITHM:
            raise bad_parameter(f"Property alg is not valid: {ALGORITHM}.")
        return item, version, _decoded(body.get("value"))


def jwk(material: Material) -> dict[str, Any]:
    """The public half on the wire."""
    numbers = material.private.public_key().public_numbers()
    return {
        "kty": material.kind,
        "key_ops": list(material.operations),
        "n": _encoded(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)),
        "e": _encoded(numbers.e.to_bytes(3)),
    }


def _operations(given: Any) -> tuple[str, ...]:
    if given is None:
        return OPERATIONS
    if not isinstance(given, list) or not all(operation in OPERATIONS for operation in given):
        raise bad_parameter("Property key_ops is not valid.")
    return tuple(given)


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _decoded(value: Any) -> bytes:
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (TypeError, ValueError, binascii.Error) as error:
        raise bad_parameter("Property value must be base64url.") from error
