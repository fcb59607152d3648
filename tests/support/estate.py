"""A simulated Microsoft 365 and a state directory whose tenants are enrolled, for integration and fault tests."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cli.config import load
from cli.credential import make, store_sealed
from cli.state import State, initialise
from cli.tenant import register
from crypto.credential import AppCertificate, AppSecret, Payload, ServiceAccount
from domain.events import ExchangeServer, TenantRegistered
from domain.ids import ENTRA, EXCHANGE_SERVER, Slot, tenant_id
from domain.settings import Cloud, Settings
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import Account, App, Fault, Tenant
from simulator.world import AppSecret as KnownSecret


def certificate() -> tuple[str, str, x509.Certificate]:
    """A new self-signed certificate: PEM, key in PEM, and the certificate."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tenantry test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return made.public_bytes(Encoding.PEM).decode(), pem, made


@dataclass
class Estate:
    """Tenants in the simulator, and the state directory that collects them. `changes`: to its settings."""

    simulator: Simulator
    directory: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    settings: Settings = field(init=False)
    state: State = field(init=False)
    tenants: list[Tenant] = field(default_factory=list)
    planted: list[str] = field(default_factory=list, repr=False)
    """The secret part of every credential that was ever set."""

    def __post_init__(self) -> None:
        effective = load(str(self.directory), None, {}, self.directory.parent)
        url = self.simulator.url
        cloud = Cloud(
            login=url, graph=url, exchange=url, compliance=url, activity=url, ca_bundle=str(self.simulator.ca_file)
        )
        self.settings = msgspec.structs.replace(effective.settings, clouds={"simulator": cloud}, **self.changes)
        initialise(self.settings)
        self.state = State(self.settings)

    def add_tenant(self, users: int, kind: str = "app-certificate", *, exchange_server: bool = False) -> Tenant:
        """A populated tenant, registered, with a credential of this kind sealed and stored."""
        number = len(self.tenants) + 1
        tenant = populate(
            seed=number,
            name=f"Tenant {number}",
            users=users,
            now=datetime.now(UTC).replace(microsecond=0),
            exchange_server=exchange_server,
        )
        tenant.settings["sign_ins_per_day"] = 20
        self.simulator.world.tenants[tenant.id] = tenant
        self.tenants.append(tenant)
        place = urlsplit(self.simulator.url)
        server = ExchangeServer(host="localhost", port=place.port or 0, auth="basic") if exchange_server else None
        register(
            self.state,
            TenantRegistered(
                tenant=tenant_id(tenant.id),
                name=tenant.name,
                domain=tenant.domain,
                cloud="simulator",
                exchange_server=server,
            ),
        )
        self.set_credential(tenant, self.new_credential(tenant, kind))
        if exchange_server:
            account = self.new_account(tenant, "exchange")
            self.set_credential(tenant, account, EXCHANGE_SERVER)
        return tenant

    def new_credential(self, tenant: Tenant, kind: str) -> Payload:
        """Known to the simulated tenant from now on."""
        client_id = str(uuid4())
        if kind == "app-certificate":
            pem, key, made = certificate()
            tenant.apps[client_id] = App(client_id, "collector", certificates=[made])
            return AppCertificate(client_id=client_id, certificate_pem=pem, private_key_pem=key)
        if kind == "app-secret":
            secret = secrets.token_urlsafe(24)
            known = KnownSecret(secret, datetime.now(UTC) + timedelta(days=90))
            tenant.apps[client_id] = App(client_id, "collector", secrets=[known])
            return AppSecret(client_id=client_id, secret=secret)
        tenant.apps[client_id] = App(client_id, "public client", public=True)
        return msgspec.structs.replace(self.new_account(tenant, "reader"), client_id=client_id)

    def new_account(self, tenant: Tenant, name: str) -> ServiceAccount:
        account = Account(f"{name}@{tenant.domain}", secrets.token_urlsafe(24))
        tenant.accounts[account.upn.lower()] = account
        return ServiceAccount(username=account.upn, password=account.password)

    def set_credential(self, tenant: Tenant, credential: Payload, slot: Slot = ENTRA) -> None:
        match credential:
            case AppCertificate(private_key_pem=pem):
                self.planted.append(pem.splitlines()[3])
            case AppSecret(secret=secret) | ServiceAccount(password=secret):
                self.planted.append(secret)
        store_sealed(self.state, make(tenant_id(tenant.id), slot, self.state.public_key(), credential))

    def fail(
        self, tenant: Tenant, route: str, kind: str, times: int | None = 1, after: int = 0, **options: Any
    ) -> None:
        self.simulator.world.faults.setdefault((tenant.id, route), []).append(Fault(kind, times, after, options))
