"""What signs in to a tenant: the payload of an envelope, as JSON that the sealing clients write too.

{"kind": "app-secret", "client_id": "...", "secret": "..."}
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, NoReturn, TypeAlias, cast

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from crypto.certificate import spki
from crypto.secret import Secret
from domain.errors import EnvelopeRejected, Malformed
from domain.events import CredentialKind

AZURE_POWERSHELL = "1950a258-227b-4e31-a9cf-717495945fc2"
"""Microsoft's public client that accepts user names and passwords without an app registration."""
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAX_TEXT = 256
_MAX_SECRET = 1024
_MAX_PEM = 12 * 1024


class _Kind(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """Shows nothing and is not pickled. It is JSON only on its way into and out of a `Secret`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is neither pickled nor copied")

    __copy__ = __reduce__


class AppCertificate(_Kind, frozen=True, tag="app-certificate"):
    """An app registration's certificate and its private key, both PEM, the key not encrypted."""

    client_id: str
    certificate_pem: str
    private_key_pem: str


class AppSecret(_Kind, frozen=True, tag="app-secret"):
    client_id: str
    secret: str


class ServiceAccount(_Kind, frozen=True, tag="service-account"):
    username: str
    password: str
    client_id: str = AZURE_POWERSHELL


Payload: TypeAlias = AppCertificate | AppSecret | ServiceAccount


def encode(payload: Payload) -> Secret:
    """Raises `Malformed` for what cannot sign in: no GUID, nothing in a field, a certificate without its key, or with a
    key that is not RSA."""
    _check(payload)
    if isinstance(payload, AppCertificate):
        public = _certificate(payload).public_key()
        if not isinstance(public, rsa.RSAPublicKey):
            raise Malformed("certificate", "...", "a certificate with an RSA key, the only kind that can sign in")
    return Secret(msgspec.json.encode(payload))


def decode(secret: Secret) -> Payload:
    """Raises `EnvelopeRejected`, which quotes nothing: a sealed payload is whatever its writer put in. A certificate
    with another kind of key opens: signing in tells what is wrong with it."""
    try:
        payload = cast(Payload, msgspec.json.decode(secret.reveal(), type=Payload))
        _check(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise EnvelopeRejected("what it holds is no credential") from None
    except Malformed as error:
        raise EnvelopeRejected(f"the {error.args[0]} in it cannot be used") from None
    return payload


def kind_of(payload: Payload) -> CredentialKind:
    return cast(CredentialKind, payload.__struct_config__.tag)


def identity_of(payload: Payload) -> str:
    """The client id, or the user name of a service account."""
    match payload:
        case ServiceAccount():
            return payload.username
        case AppCertificate() | AppSecret():
            return payload.client_id


def expires_of(payload: Payload) -> datetime | None:
    """The certificate's notAfter in UTC. Nothing else says when it expires."""
    return _certificate(payload).not_valid_after_utc if isinstance(payload, AppCertificate) else None


def _check(payload: Payload) -> None:
    if not _GUID.fullmatch(payload.client_id):
        raise Malformed("client id", "...", "the application (client) id, a GUID")
    match payload:
        case AppCertificate():
            _check_pair(payload)
        case AppSecret():
            _check_text("client secret", payload.secret, _MAX_SECRET)
        case ServiceAccount():
            _check_text("user name", payload.username, _MAX_TEXT)
            _check_text("password", payload.password, _MAX_SECRET)


def _check_text(what: str, text: str, limit: int) -> None:
    if not 0 < len(text) <= limit or any(not _is_writable(character) for character in text):
        raise Malformed(what, "...", f"1 to {limit} characters without control characters")


def _is_writable(character: str) -> bool:
    """Surrogates have no UTF-8: they stand for bytes that were read in another encoding."""
    return ord(character) >= 32 and not "\ud800" <= character <= "\udfff"


def _check_pair(payload: AppCertificate) -> None:
    if max(len(payload.certificate_pem), len(payload.private_key_pem)) > _MAX_PEM:
        raise Malformed("certificate", "...", f"PEM of at most {_MAX_PEM} characters")
    certificate = _certificate(payload)
    try:
        private: Any = load_pem_private_key(payload.private_key_pem.encode(), None)
        public = spki(private.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Malformed("private key", "...", "an unencrypted PEM private key") from None
    try:
        certified = spki(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed("certificate", "...", "a certificate of a kind of key that is known") from None
    if public != certified:
        raise Malformed("private key", "...", "the private key of the certificate next to it")


def _certificate(payload: AppCertificate) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(payload.certificate_pem.encode())
    except ValueError:
        raise Malformed("certificate", "...", "a PEM certificate") from None
