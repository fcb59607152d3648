"""A simulated Key Vault with identities that may do different things, and a state directory whose secrets are there."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.identity import ClientSecretCredential
from azure.keyvault.secrets import SecretClient
from estate import Estate
from office import Office, at_work

from cli.state import stop_keyholder
from simulator.credentials import register_secret_app
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import KEY_VAULT, Tenant, World

READS_ITS_KEYS = {"event-key": "Key Vault Secrets User", "ledger-key": "Key Vault Secrets User"}
SETS_ONLY: dict[str, Any] = {"*": {"set"}, **READS_ITS_KEYS}
"""What docs/sealing.md grants the operator's command line."""
OFFBOARDS: dict[str, Any] = {"*": {"set", "delete", "purge", "list"}, **READS_ITS_KEYS}
KEYHOLDER = {"get", "list", "set", "delete", "purge", "recover"} | {
    f"keys.{one}" for one in ("create", "get", "list", "update", "delete", "purge", "unwrap")
}


@dataclass
class Identity:
    client_id: str
    secret: str


class Strongroom:
    """`home`: the directory with the vault. The identity that `enter` names is that of processes started afterwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        now = datetime.now(UTC).replace(microsecond=0)
        self.home: Tenant = populate(seed=7, name="Home", users=1, now=now)
        self.home.settings |= {"key_vault": True, "key_vault_polls": 0, "key_vault_roles": {}}
        self.world = World(tenants={self.home.id: self.home})

    def identity(self, grant: Any) -> Identity:
        app, secret = register_secret_app(self.home, secrets.token_hex(4), datetime.now(UTC) + timedelta(days=1))
        app.consented.add(KEY_VAULT)
        self.grant(made := Identity(app.client_id, secret), grant)
        return made

    def grant(self, identity: Identity, grant: Any) -> None:
        self.home.settings["key_vault_roles"][identity.client_id] = grant

    def enter(self, identity: Identity) -> None:
        values = (self.home.id, identity.client_id, identity.secret)
        for name, value in zip(("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET"), values, strict=True):
            self._monkeypatch.setenv(f"AZURE_{name}", value)

    @contextmanager
    def looked_into(self, simulator: Simulator) -> Iterator[SecretClient]:
        """By its administrator."""
        who, options = self.identity("Key Vault Administrator"), {"connection_verify": str(simulator.ca_file)}
        with (
            ClientSecretCredential(
                self.home.id,
                who.client_id,
                who.secret,
                authority=simulator.url,
                disable_instance_discovery=True,
                **options,  # type: ignore[arg-type]
            ) as credential,
            SecretClient(simulator.url, credential, verify_challenge_resource=False, **options) as client,  # type: ignore[arg-type]
        ):
            yield client


@contextmanager
def office_before(
    room: Strongroom, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Office]:
    """Its keyholder runs under an identity of its own and has its keys in the vault too; whoever types may only set."""
    keyholder, operator = room.identity(KEYHOLDER), room.identity(SETS_ONLY)
    with Simulator(room.world) as simulator:
        changes = {
            "secrets": simulator.url,
            "secrets_authority": simulator.url,
            "secrets_ca_bundle": str(simulator.ca_file),
        }
        monkeypatch.setenv("TENANTRY_SECRETS_URL", simulator.url)
        monkeypatch.setenv("TENANTRY_SECRETS_AUTHORITY", simulator.url)
        monkeypatch.setenv("TENANTRY_SECRETS_CA_BUNDLE", str(simulator.ca_file))
        monkeypatch.setenv("TENANTRY_VAULT_CUSTODY", f"{simulator.url}/keys/tenantry")
        room.enter(keyholder)
        estate = Estate(simulator, directory / "state", {**changes, "custody": f"{simulator.url}/keys/tenantry"})
        estate.state.keyholder.health()
        room.enter(operator)
        yield at_work(estate, directory, capsys, monkeypatch)
        estate.state.keyholder.close()
        stop_keyholder(estate.settings)
        estate.state.secrets.close()  # type: ignore[attr-defined]
        estate.state.close()
