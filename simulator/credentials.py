"""Credentials of simulated tenants, random each time: none comes out of a seed."""

from __future__ import annotations

import datetime as dt
import secrets
import uuid
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from simulator.world import Account, App, AppSecret, SignInState, Tenant


class AppCertificate(NamedTuple):
    """A self-signed certificate and its key: `pem` holds both, key first; `certificate` is what gets registered."""

    pem: bytes
    certificate: x509.Certificate


def make_certificate(name: str, now: dt.datetime, lifetime: dt.timedelta = dt.timedelta(days=365)) -> AppCertificate:
    """A certificate an application can sign in with, valid from a day before `now` for `lifetime` after it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + lifetime)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return AppCertificate(private + certificate.public_bytes(serialization.Encoding.PEM), certificate)


def register_certificate_app(tenant: Tenant, name: str, now: dt.datetime) -> tuple[App, bytes]:
    """An application of the tenant with a certificate, and the PEM (key and certificate) to sign in with."""
    made = make_certificate(name, now)
    app = App(str(uuid.uuid4()), name, certificates=[made.certificate])
    tenant.apps[app.client_id] = app
    return app, made.pem


def register_secret_app(tenant: Tenant, name: str, expires: dt.datetime) -> tuple[App, str]:
    """An application of the tenant with a client secret, and the secret."""
    secret = f"{secrets.token_urlsafe(3)[:3]}8Q~{secrets.token_urlsafe(30)[:34]}"
    app = App(str(uuid.uuid4()), name, secrets=[AppSecret(secret, expires)])
    tenant.apps[app.client_id] = app
    return app, secret


def register_account(
    tenant: Tenant, local_name: str, state: SignInState = SignInState.OK, domain: str | None = None
) -> tuple[App, Account]:
    """A service account of the tenant, and the public client application through which it signs in."""
    app = App(str(uuid.uuid4()), f"{local_name} sign-in", public=True)
    account = Account(f"{local_name}@{domain or tenant.domain}", secrets.token_urlsafe(24), state)
    tenant.apps[app.client_id] = app
    tenant.accounts[account.upn] = account
    return app, account
