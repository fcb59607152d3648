"""The one form of JWE (RFC 7516) there is here, every byte of it.

    BASE64URL(header) . BASE64URL(encrypted key) . BASE64URL(iv) . BASE64URL(ciphertext) . BASE64URL(tag)

The protected header has exactly the members of `Header`, each a string, in any order. It is authenticated with the
ciphertext, so an envelope belongs to one tenant, one slot and one purpose (`typ`) and opens as nothing else.
`A256CBC-HS512` exists for Windows PowerShell 5.1, whose .NET Framework has no AES-GCM.

Everything about an envelope comes from whoever wrote it. It is measured and compared before a private key is touched,
and a refusal never quotes it. Opening asks the keyring for one thing only: the content key, unwrapped. So a private key
may be where this process cannot read it.
"""

from __future__ import annotations

import json
from functools import lru_cache

import msgspec
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.registry import HeaderParameter
from joserfc.util import urlsafe_b64decode

from crypto.keyring import Keyring, VaultPublicKey
from crypto.secret import Secret
from domain.errors import EnvelopeRejected, Malformed

ALG = "RSA-OAEP-256"
SIZES: dict[str, tuple[int, int]] = {"A256GCM": (12, 16), "A256CBC-HS512": (16, 32)}
"""Content encryption to the bytes of its iv and its tag (RFC 7518 §5). There are no others."""
_KEY_BYTES: dict[str, int] = {"A256GCM": 32, "A256CBC-HS512": 64}
MAX_ENVELOPE = 64 * 1024
"""Characters that are looked at."""
MAX_PAYLOAD = 16 * 1024
"""Bytes that are sealed, so that an envelope fits a Key Vault secret (25 KB)."""
LEAST_ENCRYPTED_KEY = 2048 // 8
"""Bytes: of the smallest RSA key that RFC 7518 §4.3 allows."""
_MAX_HEADER = 1024
_REGISTRY = jwe.JWERegistry(
    header_registry={name: HeaderParameter(name, "str", required=True) for name in ("kid", "typ", "tid", "slot")},
    algorithms=[ALG, *SIZES],
)


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The protected header. `kid`: thumbprint of the vault key; `tid`: tenant; `slot`: which of its secrets."""

    alg: str
    enc: str
    kid: str
    typ: str
    tid: str
    slot: str


def seal(payload: Secret, *, typ: str, tid: str, slot: str, key: VaultPublicKey, cbc: bool = False) -> str:
    """Raises `Malformed` for a payload over `MAX_PAYLOAD`."""
    enc = "A256CBC-HS512" if cbc else "A256GCM"
    header = Header(alg=ALG, enc=enc, kid=key.thumbprint, typ=typ, tid=tid, slot=slot)
    plaintext = payload.reveal()
    if len(plaintext) > MAX_PAYLOAD:
        raise Malformed("payload to seal", f"{len(plaintext)} bytes", f"at most {MAX_PAYLOAD} bytes")
    return jwe.encrypt_compact(msgspec.structs.asdict(header), plaintext, _recipient(key), registry=_REGISTRY)


@lru_cache(maxsize=4)
def _recipient(key: VaultPublicKey) -> RSAKey:
    """A public key is parsed once, not for each of thousands of envelopes."""
    return RSAKey.import_key(msgspec.to_builtins(key.jwk))


def read(envelope: str, typ: str) -> Header:
    """The header of an envelope of this `typ`, not yet authenticated. Raises `EnvelopeRejected`."""
    return _measure(envelope, typ).header


def open_(envelope: str, *, typ: str, tid: str, slot: str, keyring: Keyring) -> Secret:
    """Raises `EnvelopeRejected` for anything but an untouched envelope of this type, tenant and slot, and what
    `Keyring.unwrap` raises."""
    parts = _measure(envelope, typ)
    if parts.header.tid != tid:
        raise EnvelopeRejected("it belongs to another tenant")
    if parts.header.slot != slot:
        raise EnvelopeRejected("it belongs to another slot")
    content_key = keyring.unwrap(parts.header.kid, parts.encrypted_key)
    if len(content_key) != _KEY_BYTES[parts.header.enc]:
        raise EnvelopeRejected("its content key has the wrong size")
    try:
        content = _REGISTRY.get_enc(parts.header.enc)
        return Secret(content.decrypt(parts.ciphertext, parts.tag, content_key, parts.iv, parts.authenticated))
    except (JoseError, ValueError):
        raise EnvelopeRejected("it was changed after it was sealed") from None


class _Parts(msgspec.Struct, frozen=True):
    """`authenticated`: the header as it stands in the envelope, which the tag covers too (RFC 7516 §5.2, step 15)."""

    header: Header
    authenticated: bytes
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes
    tag: bytes


def _measure(envelope: str, typ: str) -> _Parts:
    """The parts, after every check that needs no key."""
    if len(envelope) > MAX_ENVELOPE:
        raise EnvelopeRejected(f"it is longer than {MAX_ENVELOPE} characters")
    segments = envelope.split(".", 5)
    if len(segments) != 5 or not envelope.isascii():
        raise EnvelopeRejected("it is no compact JWE")
    if len(segments[0]) > _MAX_HEADER:
        raise EnvelopeRejected(f"its header is longer than {_MAX_HEADER} characters")
    try:
        raw_header, encrypted_key, iv, ciphertext, tag = (urlsafe_b64decode(segment.encode()) for segment in segments)
    except ValueError:
        raise EnvelopeRejected("it is no compact JWE") from None
    header = _parse_header(raw_header)
    facts = (
        (header.typ == typ, f"its typ is not {typ}"),
        (header.alg == ALG, f"its alg is not {ALG}"),
        (header.enc in SIZES, f"its enc is not {' or '.join(SIZES)}"),
        ((len(iv), len(tag)) == SIZES.get(header.enc), "its iv or tag has the wrong size"),
        (len(encrypted_key) >= LEAST_ENCRYPTED_KEY, "its encrypted key has the wrong size"),
    )
    for holds, why in facts:
        if not holds:
            raise EnvelopeRejected(why)
    return _Parts(header, segments[0].encode(), encrypted_key, iv, ciphertext, tag)


def _parse_header(raw: bytes) -> Header:
    """The typed decoder bounds the form, so nothing nests; the plain one then counts members, so none stands twice."""
    try:
        header = msgspec.json.decode(raw, type=Header)
        members = json.loads(raw, object_pairs_hook=len)
    except (msgspec.DecodeError, ValueError):
        raise EnvelopeRejected(
            f"its header has not exactly the members {', '.join(Header.__struct_fields__)}"
        ) from None
    if members != len(Header.__struct_fields__):
        raise EnvelopeRejected("its header names a member twice")
    return header
