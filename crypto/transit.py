"""Sealing between processes: HPKE (RFC 9180) base mode, X25519, HKDF-SHA256, AES-256-GCM.

    sealed = encapsulated key (32 bytes) | ciphertext and tag (16 more than the plaintext)

Anyone can seal to a public key; who may ask for what is decided before. The context is HPKE's `info`.
"""

from __future__ import annotations

from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from crypto.secret import Secret, Unpicklable
from domain.errors import Malformed, SealBroken

PUBLIC_BYTES = 32
OVERHEAD = 48
MAX_SEALED = 1024 * 1024


class TransitKey(Unpicklable):
    """One activation's private key. It lives in the memory of the process that made it, and nowhere else."""

    __slots__ = ("_private", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        return cls(X25519PrivateKey.generate())

    def open(self, sealed: bytes, context: bytes) -> Secret:
        """Raises `SealBroken`."""
        if not OVERHEAD <= len(sealed) <= MAX_SEALED:
            raise SealBroken("answer", "it is cut off or too long")
        try:
            return Secret(_suite().decrypt(sealed, self._private, info=context))
        except (InvalidTag, ValueError):
            raise SealBroken("answer", "it was changed, or sealed to another key or for another purpose") from None

    def __repr__(self) -> str:
        return f"TransitKey(public={self.public.hex()!r})"


def seal(public: bytes, plaintext: Secret, context: bytes) -> bytes:
    """Raises `Malformed` for a public key that is not one, and for more than can be opened."""
    if len(public) != PUBLIC_BYTES:
        raise Malformed("transit key", f"{len(public)} bytes", f"{PUBLIC_BYTES} bytes")
    payload = plaintext.reveal()
    if len(payload) > MAX_SEALED - OVERHEAD:
        raise Malformed("payload to seal", f"{len(payload)} bytes", f"at most {MAX_SEALED - OVERHEAD} bytes")
    try:
        return _suite().encrypt(payload, X25519PublicKey.from_public_bytes(public), info=context)
    except ValueError:
        raise Malformed("transit key", public.hex(), "an X25519 public key of full order") from None


def context(*parts: str) -> bytes:
    """Each part behind its length in 4 bytes, so that no two lists of parts give the same bytes."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4) + part for part in encoded)


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
