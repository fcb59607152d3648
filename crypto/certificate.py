"""A certificate and its private key out of the files that they come in: PEM, or PFX (PKCS #12, RFC 7292).

What comes out is PEM, the key in PKCS #8 and not encrypted. Whether the two belong together is looked at where they are
sealed (`crypto.credential`). A refusal quotes nothing of the file.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12KeyAndCertificates, load_pkcs12

from domain.errors import Malformed, UsageError

WANTED = "PEM with a CERTIFICATE and an unencrypted PRIVATE KEY block, or a PFX file"
_PEM = b"-----BEGIN "
_DER_SEQUENCE = b"\x30"
_WRONG_PASSWORD = "Invalid password"  # noqa: S105 - how the cryptography package begins to say so


class WrongPassword(UsageError):
    """(what is needed)"""

    sentence = "The password does not open the PFX file: expected {0}."


class Pair(NamedTuple):
    """Both PEM."""

    certificate: str
    private_key: str


def is_pfx(content: bytes) -> bool:
    """DER, and so no text."""
    return content.startswith(_DER_SEQUENCE) and _PEM not in content


def from_pem(text: str) -> Pair:
    """The first certificate and the first private key of a text. Raises `Malformed` without both."""
    blocks: dict[Literal["certificate", "key"], str] = {}
    for part in text.split(_PEM.decode())[1:]:
        label = part.partition("-----")[0]
        which: Literal["certificate", "key"] = "certificate" if label == "CERTIFICATE" else "key"
        if label == "CERTIFICATE" or label.endswith("PRIVATE KEY"):
            blocks.setdefault(which, f"{_PEM.decode()}{part.rstrip()}\n")
    if blocks.keys() != {"certificate", "key"}:
        raise Malformed("certificate", "that text", WANTED)
    return Pair(blocks["certificate"], blocks["key"])


def from_pfx(content: bytes, password: str) -> Pair:
    """The private key and the certificate that is its own, whatever others are beside it.

    Raises `WrongPassword`, and `Malformed` for what has no such pair. The empty password opens a file without one.
    """
    stored = _opened(content, password)
    if stored.key is None:
        raise Malformed("certificate", "that PFX file", "one with the private key: export it together with its key")
    named = [] if stored.cert is None else [stored.cert]
    found = (one.certificate for one in (*named, *stored.additional_certs))
    leaf = next((one for one in found if _certifies(one, stored.key)), None)
    if leaf is None:
        raise Malformed("certificate", "that PFX file", "one with the certificate of its private key")
    private: Any = stored.key
    key: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(leaf.public_bytes(Encoding.PEM).decode(), key.decode())


def _opened(content: bytes, password: str) -> PKCS12KeyAndCertificates:
    try:
        return load_pkcs12(content, password.encode())
    except UnicodeEncodeError:
        raise WrongPassword("text that can be written as UTF-8") from None
    except UnsupportedAlgorithm:
        raise Malformed("certificate", "that PFX file", "one whose encryption is known here: export it anew") from None
    except ValueError as error:
        if str(error).startswith(_WRONG_PASSWORD):
            raise WrongPassword("the one that it was exported with") from None
        raise Malformed("certificate", "that file", WANTED) from None


def _certifies(certificate: x509.Certificate, key: Any) -> bool:
    try:
        return spki(certificate.public_key()) == spki(key.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return False


def spki(public: Any) -> bytes:
    encoded: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
