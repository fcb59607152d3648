"""Signed checkpoints of the ledger: C2SP tlog-checkpoint as a C2SP signed-note, with one Ed25519 signature.

    <origin>\\n<size in decimal>\\n<base64 of the root>\\n
    \\n
    — <origin> <base64 of key id (4 bytes) and signature (64)>\\n

The key id is the beginning of SHA-256(origin | 0x0A | 0x01 | public key). Any signed-note verifier can check it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crypto.merkle import HASH_BYTES
from crypto.secret import Secret, Unpicklable
from domain.errors import CheckpointRejected, Malformed

KEY_BYTES = 32
MAX_NOTE = 4096
"""Characters."""
MOST_EVENTS = 10**19 - 1
"""A note has room for so many."""
_ED25519 = b"\x01"
_NAME = r"[^\s+\ud800-\udfff]{1,256}"
_ORIGIN = re.compile(_NAME)
_NOTE = re.compile(
    rf"(?P<body>(?P<origin>{_NAME})\n(?P<size>0|[1-9][0-9]{{0,18}})\n(?P<root>[A-Za-z0-9+/]{{43}}=)\n)"
    rf"\n\u2014 (?P<name>{_NAME}) (?P<signature>[A-Za-z0-9+/]{{91}}=)\n"
)


class Checkpoint(msgspec.Struct, frozen=True):
    """The first `size` events of the ledger `origin` have this Merkle root."""

    origin: str
    size: int
    root: bytes


class LedgerKey(Unpicklable):
    """The Ed25519 key that signs checkpoints. `public`: 32 bytes, for whoever verifies."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_secret(cls, secret: Secret) -> Self:
        """Raises `Malformed` unless it holds 32 bytes."""
        try:
            return cls(Ed25519PrivateKey.from_private_bytes(secret.reveal()))
        except ValueError:
            raise Malformed("ledger key", "...", f"{KEY_BYTES} bytes") from None

    def to_secret(self) -> Secret:
        return Secret(self._private.private_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"LedgerKey(public={self.public.hex()!r})"


def sign_checkpoint(origin: str, size: int, root: bytes, key: LedgerKey) -> str:
    """The note. Raises `Malformed` for an origin that no note can name, a size it has no room for, or a short root."""
    if not _ORIGIN.fullmatch(origin):
        raise Malformed("ledger origin", origin, "a name without white space and plus signs")
    if not 0 <= size <= MOST_EVENTS or len(root) != HASH_BYTES:
        raise Malformed("tree head", f"{size}, {len(root)} bytes", f"a size and a root of {HASH_BYTES} bytes")
    body = f"{origin}\n{size}\n{_base64(root)}\n"
    signature = key_id(origin, key.public) + key.sign(body.encode())
    return f"{body}\n\u2014 {origin} {_base64(signature)}\n"


def verify_checkpoint(note: str, public: bytes) -> Checkpoint:
    """What was signed, by the holder of this key. Raises `CheckpointRejected`."""
    match = _NOTE.fullmatch(note) if len(note) <= MAX_NOTE else None
    if match is None:
        raise CheckpointRejected("it is no signed checkpoint")
    origin, root, sealed = match["origin"], _canonical(match["root"]), _canonical(match["signature"])
    if match["name"] != origin or sealed[:4] != key_id(origin, public):
        raise CheckpointRejected("it is signed with another key")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(sealed[4:], match["body"].encode())
    except (InvalidSignature, ValueError):
        raise CheckpointRejected("its signature does not hold") from None
    return Checkpoint(origin=origin, size=int(match["size"]), root=root)


def named_origin(note: str) -> str | None:
    """The ledger that a note says it is of, whoever signed it; None when it is no checkpoint."""
    match = _NOTE.fullmatch(note) if len(note) <= MAX_NOTE else None
    return match["origin"] if match else None


def key_id(origin: str, public: bytes) -> bytes:
    """4 bytes that a signature line begins with."""
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + public).digest()[:4]


def verifier_key(origin: str, public: bytes) -> str:
    """The public key as signed-note writes it: `<origin>+<key id in hex>+<base64 of 0x01 and the key>`."""
    return f"{origin}+{key_id(origin, public).hex()}+{_base64(_ED25519 + public)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _canonical(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if _base64(data) != text:
        raise CheckpointRejected("its base64 is not canonical")
    return data
