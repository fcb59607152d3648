"""A tenant's key for collected data. Destroying its wrapped form makes everything sealed with it unreadable.

    sealed = 0x01 | key id (8 bytes) | nonce (12) | AES-256-GCM ciphertext and tag (16 more than the plaintext)

The first 21 bytes and the caller's context are authenticated. Nonces are random, which bounds one key to 2^32 seals
(NIST SP 800-38D §8.3); a tenant with a million batches a year is far from it.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto import jwe
from crypto.keyring import Keyring, VaultPublicKey
from crypto.secret import Secret, Unpicklable
from domain.errors import Malformed, SealBroken
from domain.ids import TenantId

TYP = "tenantry-datakey+jwe"
SLOT = "data"
KEY_BYTES = 32
_VERSION = b"\x01"
_ID_BYTES = 8
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_VERSION) + _ID_BYTES
OVERHEAD = _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES


class DataKey(Unpicklable):
    """AES-256-GCM under one key. `id`: 16 hex digits, a digest of the key, so no id can stand for another key."""

    __slots__ = ("_aead", "_key", "_prefix", "id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise Malformed("data key", f"{len(key)} bytes", f"{KEY_BYTES} bytes")
        name = hashlib.sha256(b"tenantry data key\x00" + key).digest()[:_ID_BYTES]
        self.id = name.hex()
        self._prefix = _VERSION + name
        self._key = Secret(key)
        self._aead = AESGCM(key)

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """`context` says where the bytes belong; they open nowhere else."""
        prefix = self._prefix + os.urandom(_NONCE_BYTES)
        return prefix + self._aead.encrypt(prefix[_HEADER_BYTES:], plaintext, prefix + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises `SealBroken`."""
        if key_id(sealed) != self.id:
            raise SealBroken("data", "it is sealed with another key")
        prefix = sealed[: _HEADER_BYTES + _NONCE_BYTES]
        try:
            return self._aead.decrypt(prefix[_HEADER_BYTES:], sealed[len(prefix) :], prefix + context)
        except InvalidTag:
            raise SealBroken("data", "it was changed or moved") from None

    def to_secret(self) -> Secret:
        return Secret(self._key.reveal())

    def __repr__(self) -> str:
        return f"DataKey(id={self.id!r})"


def new_data_key() -> DataKey:
    return DataKey(os.urandom(KEY_BYTES))


def from_secret(secret: Secret) -> DataKey:
    """Raises `Malformed` unless it holds 32 bytes."""
    return DataKey(secret.reveal())


def key_id(sealed: bytes) -> str:
    """Which key opens these bytes. Raises `SealBroken` when they are too short or of another version."""
    if len(sealed) < OVERHEAD or not sealed.startswith(_VERSION):
        raise SealBroken("data", "it is cut off or of an unknown version")
    return bytes(sealed[len(_VERSION) : _HEADER_BYTES]).hex()


def wrap(data_key: DataKey, *, tenant: TenantId, key: VaultPublicKey) -> str:
    """The key as a compact JWE, sealed to the vault and bound to its tenant."""
    with data_key.to_secret() as secret:
        return jwe.seal(secret, typ=TYP, tid=tenant, slot=SLOT, key=key)


def unwrap(wrapped: str, *, tenant: TenantId, keyring: Keyring) -> DataKey:
    """Raises `EnvelopeRejected`, or `Malformed` when what was wrapped is no data key."""
    with jwe.open_(wrapped, typ=TYP, tid=tenant, slot=SLOT, keyring=keyring) as secret:
        return from_secret(secret)


def wrapped_to(wrapped: str) -> str:
    """Thumbprint of the vault key that it is wrapped to. Raises `EnvelopeRejected`."""
    return jwe.read(wrapped, TYP).kid
