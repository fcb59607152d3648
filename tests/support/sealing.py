"""A vault made for one test run, credentials of every kind to seal to it, and what Python makes of them."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from cli.sealing import SealedCredential
from crypto import credential as payloads
from crypto import envelope
from crypto.keyring import Keyring, public_jwks, public_of
from domain.errors import Malformed
from domain.ids import ENTRA, TenantId

CLIENTS = Path(__file__).parents[2] / "clients"
TENANT = TenantId(str(uuid4()))
CLIENT = str(uuid4())


@cache
def vault() -> Keyring:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    name = public_of(key).thumbprint
    return Keyring({name: key}, name)


def jwks() -> str:
    return public_jwks(vault().public)


def request(credential: object, **changed: object) -> dict[str, object]:
    return {"jwks": jwks(), "tenant": TENANT, "slot": ENTRA, "credential": credential} | changed


def opened(sealed: SealedCredential) -> payloads.Payload:
    with envelope.open_(sealed.envelope, tenant=sealed.tenant, slot=sealed.slot, keyring=vault()) as secret:
        return payloads.decode(secret)


def app_secret(**changed: object) -> dict[str, object]:
    return {"kind": "app-secret", "client_id": CLIENT, "secret": secrets.token_urlsafe(30)} | changed


def service_account(**changed: object) -> dict[str, object]:
    password = secrets.token_urlsafe(20)
    return {"kind": "service-account", "username": "reader@contoso.com", "password": password} | changed


PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def private_key(kind: str) -> PrivateKey:
    match kind:
        case "rsa" | "another rsa":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "p-256":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


@cache
def certificate(kind: str, days: int = 365, begin: datetime = datetime(2026, 11, 22, 20, 30, 15, tzinfo=UTC)) -> str:
    key = private_key(kind)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Größe " * 8)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


def private_pem(kind: str, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return private_key(kind).private_bytes(Encoding.PEM, form, NoEncryption()).decode()


def app_certificate(kind: str = "rsa", form: PrivateFormat = PrivateFormat.PKCS8, **changed: object) -> dict[str, Any]:
    pair = {"certificate_pem": certificate(kind), "private_key_pem": private_pem(kind, form)}
    return {"kind": "app-certificate", "client_id": CLIENT} | pair | changed


def as_python_reads(credential: object) -> payloads.Payload:
    """Raises `msgspec.DecodeError` or `Malformed` for what Python would not seal."""
    made: payloads.Payload = msgspec.json.decode(json.dumps(credential).encode(), type=payloads.Payload)
    payloads.encode(made).close()
    return made


def in_python(credential: object) -> payloads.Payload | None:
    """As Python would seal it, or nothing if it would not."""
    try:
        return as_python_reads(credential)
    except (msgspec.DecodeError, Malformed):
        return None


def pem(label: str, content: str) -> str:
    return f"-----BEGIN {label}-----\n{content}\n-----END {label}-----\n"


def encrypted_pem() -> str:
    protected = BestAvailableEncryption(secrets.token_bytes(16))
    return private_key("rsa").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protected).decode()
