"""An estate of tenants to start with: each with a way to sign in, some with an Exchange Server, two that refuse.

Data comes from the seed, credentials do not. The files with them are readable by their owner only.
"""

from __future__ import annotations

import secrets
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from simulator.credentials import AppCertificate, make_certificate, register_account, register_secret_app
from simulator.population import populate
from simulator.tls import write_private
from simulator.vocabulary import TENANT_NAMES
from simulator.world import Account, App, SignInState, Tenant, World

KINDS = ("app-certificate", "app-secret", "service-account")
REFUSING = {3: ("service-account", "mfa-required"), 4: ("app-secret", "secret-expired")}
"""Place in the estate to a kind of credential and why it does not work, from five tenants on."""
FEWEST_WITH_REFUSING = 5
EXCHANGE_SERVER_EVERY = 3
MOST_CERTIFICATES = 32
"""Making an RSA key takes long: in a large estate tenants share certificates, as a multi-tenant application's do."""


@dataclass(frozen=True, slots=True)
class Estate:
    """The world, and one row per tenant: who it is and where its credentials are."""

    world: World
    tenants: list[dict[str, Any]]


def build_estate(*, tenants: int, users: int, seed: int, now: datetime, directory: Path) -> Estate:
    """Make `tenants` tenants of `users` people each and write their credentials below `directory`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    world = World()
    rows: list[dict[str, Any]] = []
    certificates: deque[AppCertificate] = deque()
    for place in range(tenants):
        kind, sign_in = KINDS[place % len(KINDS)], "ok"
        if tenants >= FEWEST_WITH_REFUSING:
            kind, sign_in = REFUSING.get(place, (kind, sign_in))
        with_server = place % EXCHANGE_SERVER_EVERY == EXCHANGE_SERVER_EVERY - 1
        tenant = populate(
            seed=seed * 1_000_003 + place, name=_name(place), users=users, now=now, exchange_server=with_server
        )
        world.tenants[tenant.id] = tenant
        rows.append(
            {
                "id": tenant.id,
                "domain": tenant.domain,
                "name": tenant.name,
                "exchange_server": with_server,
                "sign_in": sign_in,
                "credential": _credential(tenant, kind, sign_in, certificates, now, directory),
                "exchange_server_credential": _server_account(tenant, directory) if with_server else None,
            }
        )
    return Estate(world, rows)


def _credential(  # noqa: PLR0917 - everything a credential is made of
    tenant: Tenant, kind: str, sign_in: str, certificates: deque[AppCertificate], now: datetime, directory: Path
) -> dict[str, str]:
    file = directory / f"{tenant.id}.{'pem' if kind == 'app-certificate' else 'txt'}"
    row = {"kind": kind, "file": str(file)}
    match kind:
        case "app-certificate":
            if len(certificates) < MOST_CERTIFICATES:
                certificates.appendleft(make_certificate("Simulated application", now))
            certificate = certificates[0]
            certificates.rotate(-1)
            app = App(str(uuid.uuid4()), "Reporting", certificates=[certificate.certificate])
            tenant.apps[app.client_id] = app
            write_private(file, certificate.pem)
        case "app-secret":
            app, secret = register_secret_app(tenant, "Reporting", now + timedelta(days=180))
            if sign_in == "secret-expired":
                app, secret = register_secret_app(tenant, "Reporting (old)", now - timedelta(days=3))
            write_private(file, secret.encode())
        case _:
            state = SignInState.MFA_REQUIRED if sign_in == "mfa-required" else SignInState.OK
            app, account = register_account(tenant, "svc-reporting", state)
            row["username"] = account.upn
            write_private(file, account.password.encode())
    return {**row, "client_id": app.client_id}


def _server_account(tenant: Tenant, directory: Path) -> dict[str, str]:
    account = Account(f"svc-exchange@{tenant.domain}", secrets.token_urlsafe(24))
    tenant.accounts[account.upn] = account
    file = directory / f"{tenant.id}.exchange-server.txt"
    write_private(file, account.password.encode())
    return {"username": account.upn, "file": str(file)}


def _name(place: int) -> str:
    """Names in turn, numbered from the second round on."""
    turn, which = divmod(place, len(TENANT_NAMES))
    return TENANT_NAMES[which] if turn == 0 else f"{TENANT_NAMES[which]} {turn + 1}"
