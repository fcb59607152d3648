"""Rotation in the keyholder's own process, through its socket. Kills: see `test_rotation_killed_at_random.py`."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest

from crypto.keyring import parse_public
from crypto.stores import credential_name, data_key_name
from domain.errors import NotAllowed, StoreUnavailable
from domain.events import CredentialResealed
from domain.ids import ENTRA
from simulator.credentials import register_secret_app
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import World
from vault.client import open_data_key
from vault.messages import ReleaseDataKey
from vault.policy import digest_of

if TYPE_CHECKING:
    from tests.integration.conftest import House

ALICE = ("operator:alice", "rotation")


def test_a_key_is_replaced_emptied_retired_and_destroyed(house: House) -> None:
    keyholder = house.keyholder()
    data_key = keyholder.create_data_key(house.tenant, "operator:alice", "c")
    old = parse_public(keyholder.public_keys()).thumbprint
    new = keyholder.rotate_vault_key(*ALICE)
    assert keyholder.rotate_vault_key(*ALICE, replaces=old) == new
    assert parse_public(keyholder.public_keys()).thumbprint == new
    assert [(key.state, key.sealed) for key in keyholder.vault_keys(count=True)] == [("former", 2), ("active", 0)]
    with pytest.raises(NotAllowed, match="2 stored envelopes"):
        keyholder.retire_vault_key(old, *ALICE)
    assert [(one.resealed, one.remaining, one.left_count) for one in keyholder.reseal(*ALICE, limit=1)] == [
        (1, 1, 0),
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 0),
    ]
    assert [(key.state, key.sealed) for key in keyholder.vault_keys(count=True)] == [("former", 0), ("active", 2)]
    stored = house.secrets.get(credential_name(house.tenant, ENTRA))
    assert house.found()[-1] == CredentialResealed(vault_key=new, digest=digest_of(stored))
    keyholder.retire_vault_key(old, *ALICE)
    assert (house.state / "keys" / f"{old}.pem").exists()
    keyholder.destroy_vault_key(old, *ALICE)
    assert not (house.state / "keys" / f"{old}.pem").exists()
    house.killed(signal.SIGKILL)
    assert house.password_in(keyholder.release(house.request())) == house.password
    sealed = keyholder.release_data_key(
        ReleaseDataKey(tenant=house.tenant, operator="alice", why="x", transit_key=house.transit.public)
    )
    assert open_data_key(sealed, house.transit, tenant=house.tenant, receiver="alice").id == data_key
    assert keyholder.health().keys == 1


def test_neither_the_former_nor_the_new_private_key_nor_a_password_is_in_any_file(house: House) -> None:
    keyholder = house.keyholder()
    keyholder.create_data_key(house.tenant, "operator:alice", "c")
    keyholder.rotate_vault_key(*ALICE)
    list(keyholder.reseal(*ALICE))
    for path in (path for path in house.state.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert house.password.encode() not in content
        assert b"BEGIN PRIVATE KEY" not in content
        assert b"BEGIN RSA" not in content


def test_the_request_that_needs_a_custody_that_is_away_says_so_and_others_are_served(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.settings = msgspec.structs.replace(house.settings, custody="https://127.0.0.1:9/keys/vault")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    keyholder = house.keyholder()
    with pytest.raises((StoreUnavailable, NotAllowed)):
        keyholder.rotate_vault_key(*ALICE)
    assert house.password_in(keyholder.release(house.request())) == house.password


def test_a_data_key_of_a_tenant_is_rewrapped(house: House) -> None:
    keyholder = house.keyholder()
    keyholder.create_data_key(house.tenant, "operator:alice", "c")
    before = house.secrets.get(data_key_name(house.tenant))
    keyholder.rotate_vault_key(*ALICE)
    list(keyholder.reseal(*ALICE))
    assert house.secrets.get(data_key_name(house.tenant)) != before


@pytest.mark.parametrize("kind", ["secrets", "keys"])
def test_a_vault_moves_into_a_key_vault_by_a_rotation(house: House, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    tenant = populate(seed=1, name="Vault Owner", users=2, now=now)
    tenant.settings["key_vault_polls"] = 0
    app, secret = register_secret_app(tenant, "keyholder", now + timedelta(days=1))
    with Simulator(World(tenants={tenant.id: tenant})) as azure:
        identity = {
            "AZURE_TENANT_ID": tenant.id,
            "AZURE_CLIENT_ID": app.client_id,
            "AZURE_CLIENT_SECRET": secret,
            "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
        }
        for name, value in identity.items():
            monkeypatch.setenv(name, value)
        custody = f"{azure.url}/{kind}/tenantry"
        house.settings = msgspec.structs.replace(
            house.settings, custody=custody, secrets_authority=azure.url, secrets_ca_bundle=str(azure.ca_file)
        )
        keyholder = house.keyholder()
        old = keyholder.health().active
        keyholder.rotate_vault_key(*ALICE)
        assert house.password_in(keyholder.release(house.request())) == house.password
        list(keyholder.reseal(*ALICE))
        keyholder.retire_vault_key(old, *ALICE)
        keyholder.destroy_vault_key(old, *ALICE)
        assert not list((house.state / "keys").glob("*.pem"))
        house.killed(signal.SIGKILL)
        assert house.password_in(keyholder.release(house.request())) == house.password
        assert keyholder.health().custody == custody
        keyholder.close()
        house.killed(signal.SIGTERM)
