"""The vault's keys: RSA, for RSA-OAEP-256. The public half is published as a JWKS; the private halves form a keyring.

A key's name is the RFC 7638 thumbprint of its public half, so no name can point at another key. A private half is only
ever asked to unwrap: whether it lies in this process or in a Key Vault makes no difference here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from joserfc.jwk import RSAKey
from joserfc.util import base64_to_int

from crypto.secret import Secret, Unpicklable
from domain.errors import EnvelopeRejected, Malformed, Unknown, Unreadable

KEY_BITS = 3072
MIN_KEY_BITS = 2048
"""What RFC 7518 §4.3 demands of a key that somebody else made."""
MAX_KEY_BITS = 16_384
"""What OpenSSL still computes with."""
MAX_JWKS_BYTES = 64 * 1024
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_EXPECTED = (
    f"a JWK or JWKS with a public RSA key of {MIN_KEY_BITS} to {MAX_KEY_BITS} bits (see `tenantry vault public-key`)"
)


class Jwk(msgspec.Struct, frozen=True, kw_only=True):
    """The public members of RFC 7517 and RFC 7518 §6.3.1 that we publish. `kid` is the thumbprint."""

    kty: str = "RSA"
    use: str = "enc"
    alg: str = "RSA-OAEP-256"
    kid: str
    n: str
    e: str


class VaultPublicKey(msgspec.Struct, frozen=True):
    """What anyone may seal to. `thumbprint`: RFC 7638, SHA-256, base64url."""

    thumbprint: str
    jwk: Jwk


def public_of(key: rsa.RSAPublicKey | rsa.RSAPrivateKey) -> VaultPublicKey:
    public = RSAKey.import_key(key.public_key() if isinstance(key, rsa.RSAPrivateKey) else key)
    members = public.as_dict()
    thumbprint = public.thumbprint()
    return VaultPublicKey(thumbprint, Jwk(kid=thumbprint, n=str(members["n"]), e=str(members["e"])))


def parse_public(text: str) -> VaultPublicKey:
    """The key to seal to: of a JWKS its first, the active one. Raises `Malformed`, which never quotes the text."""
    if len(text) > MAX_JWKS_BYTES:
        raise Malformed("vault public key", f"{len(text)} characters", _EXPECTED)
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Malformed("vault public key", "text", _EXPECTED) from None
    keys = document.get("keys", [document])
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise Malformed("vault public key", "JSON", _EXPECTED)
    if any(_PRIVATE_MEMBERS & key.keys() for key in keys):
        raise Malformed(
            "vault public key", "a private key", "its public half only; treat that private key as disclosed"
        )
    return _parse_jwk(keys[0])


def _parse_jwk(members: dict[str, Any]) -> VaultPublicKey:
    if members.get("use", "enc") != "enc" or members.get("alg", "RSA-OAEP-256") != "RSA-OAEP-256":
        raise Malformed("vault public key", "a key for another purpose", _EXPECTED)
    try:
        numbers = rsa.RSAPublicNumbers(n=base64_to_int(members["n"]), e=base64_to_int(members["e"]))
        native = numbers.public_key()
    except (ValueError, TypeError, KeyError):
        raise Malformed("vault public key", "JSON", _EXPECTED) from None
    if members.get("kty") != "RSA" or not MIN_KEY_BITS <= native.key_size <= MAX_KEY_BITS or numbers.e != 65537:
        raise Malformed("vault public key", f"{native.key_size}-bit key", _EXPECTED)
    key = public_of(native)
    if members.get("kid", key.thumbprint) != key.thumbprint:
        raise Malformed("vault public key", "a key whose kid is not its thumbprint", _EXPECTED)
    return key


def public_jwks(keys: Sequence[VaultPublicKey]) -> str:
    """A JWK Set, the active key first."""
    return msgspec.json.encode({"keys": [key.jwk for key in keys]}).decode()


_CONSONANTS = "bdfghjklmnprstvz"
_VOWELS = "aiou"


def fingerprint(key: VaultPublicKey) -> str:
    """Eight words to compare by voice: the first 128 bits of the thumbprint as proquints (arXiv:0901.4016)."""
    digest = base64.urlsafe_b64decode(key.thumbprint + "=")
    return "-".join(_proquint(int.from_bytes(digest[at : at + 2])) for at in range(0, 16, 2))


def _proquint(number: int) -> str:
    return (
        _CONSONANTS[number >> 12]
        + _VOWELS[number >> 10 & 3]
        + _CONSONANTS[number >> 6 & 15]
        + _VOWELS[number >> 4 & 3]
        + _CONSONANTS[number & 15]
    )


def generate_private() -> rsa.RSAPrivateKey:
    """One whose name no command line takes for an option: a sixty-fourth of all thumbprints begin with a hyphen."""
    while True:
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        if not public_of(key).thumbprint.startswith("-"):
            return key


def encode_private(key: rsa.RSAPrivateKey, passphrase: Secret | None) -> bytes:
    """A PKCS#8 PEM, encrypted unless `passphrase` is None. Raises `Malformed` for one that is empty or longer than
    1,023 bytes.

    The format stretches the passphrase little (PBKDF2, 2,048 rounds), so the passphrase itself must be strong: generate
    it, from 128 random bits or more.
    """
    try:
        encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.reveal())
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    except ValueError:
        raise Malformed("passphrase", "...", "1 to 1023 bytes") from None


def load_private(pem: bytes, passphrase: Secret | None) -> rsa.RSAPrivateKey:
    """The inverse. Raises `Unreadable` for a wrong passphrase, another kind of key, or a PEM that is encrypted when it
    should not be, or the other way round."""
    try:
        key = load_pem_private_key(pem, None if passphrase is None else passphrase.reveal())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        form = "an unencrypted" if passphrase is None else "an encrypted"
        why = f"the passphrase does not open it, or it is not {form} PKCS#8 file"
        raise Unreadable("vault key", "file", why, "Check the passphrase file.") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < MIN_KEY_BITS:
        raise Unreadable(
            "vault key", "file", f"it is no RSA key of {MIN_KEY_BITS} bits or more", "Name the right file."
        )
    return key


class PrivateHalf(Protocol):
    """A vault key as its holder may use it."""

    @property
    def public(self) -> rsa.RSAPublicKey: ...

    def unwrap(self, encrypted_key: bytes) -> bytes:
        """RSA-OAEP-256, undone. Raises `ValueError` when it does not open, and what a store raises that is away."""
        ...


class LocalKey(Unpicklable):
    """A private half in this process."""

    __slots__ = ("_private",)
    _PADDING = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

    def __init__(self, private: rsa.RSAPrivateKey) -> None:
        self._private = private

    @property
    def public(self) -> rsa.RSAPublicKey:
        return self._private.public_key()

    def unwrap(self, encrypted_key: bytes) -> bytes:
        return self._private.decrypt(encrypted_key, self._PADDING)

    def __repr__(self) -> str:
        return "LocalKey(...)"


class Keyring(Unpicklable):
    """The vault's private keys by thumbprint, one of them active: that one seals, all of them open."""

    __slots__ = ("_active", "_keys", "_public", "_sizes")

    def __init__(self, keys: Mapping[str, PrivateHalf | rsa.RSAPrivateKey], active: str) -> None:
        """Raises `Malformed` for a name that is not the key's thumbprint, `Unknown` when `active` is not there."""
        self._keys = {name: LocalKey(key) if isinstance(key, rsa.RSAPrivateKey) else key for name, key in keys.items()}
        self._public = {name: public_of(key.public) for name, key in self._keys.items()}
        self._sizes = {name: key.public.key_size // 8 for name, key in self._keys.items()}
        for name, public in self._public.items():
            if public.thumbprint != name:
                raise Malformed("vault key name", name, f"its thumbprint {public.thumbprint}")
        if active not in self._keys:
            raise Unknown("vault key", active, "See `tenantry vault keys`.")
        self._active = active

    @property
    def active(self) -> VaultPublicKey:
        return self._public[self._active]

    @property
    def public(self) -> tuple[VaultPublicKey, ...]:
        """All public halves, the active one first."""
        return (self.active, *(key for name, key in self._public.items() if name != self._active))

    def __contains__(self, thumbprint: str) -> bool:
        return thumbprint in self._keys

    def unwrap(self, kid: str, encrypted_key: bytes) -> bytes:
        """What `encrypted_key` holds, by the key of this thumbprint. Raises `EnvelopeRejected`, and `StoreUnavailable`
        or `NotAllowed` when the key is in a store that is away or refuses."""
        if kid not in self._keys:
            raise EnvelopeRejected("it is sealed to a key this vault does not have")
        if len(encrypted_key) != self._sizes[kid]:
            raise EnvelopeRejected("its encrypted key has the wrong size")
        try:
            return self._keys[kid].unwrap(encrypted_key)
        except ValueError:
            raise EnvelopeRejected("it was changed after it was sealed") from None

    def __repr__(self) -> str:
        return f"Keyring(active={self._active!r}, keys={len(self._keys)})"
