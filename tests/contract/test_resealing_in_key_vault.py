"""A new vault key takes over in a Key Vault: several envelopes at once, throttled, cut off, disturbed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest
from azure.core.credentials import AccessTokenInfo

from crypto import credential, envelope
from crypto.credential import ServiceAccount
from crypto.keyvault import AT_ONCE, KeyVaultSecretStore
from crypto.secret import Secret
from crypto.stores import credential_name, data_key_name
from domain.errors import StoreUnavailable
from domain.events import CredentialRotated, CredentialSealed, TenantRegistered
from domain.ids import ENTRA, TenantId, credential_stream, tenant_stream
from eventstore.store import open_event_store
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import Fault, World
from vault.custody import FileCustody, create_passphrase
from vault.holding import Holding
from vault.messages import (
    CreateDataKey,
    CreateVaultKey,
    ListVaultKeys,
    Resealed,
    ResealStep,
    RotateVaultKey,
    VaultKeySet,
)
from vault.policy import digest_of

NOW = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
BY = {"actor": "operator:alice", "cause": "rotation"}
TENANTS = [TenantId(str(uuid4())) for _ in range(6)]


@pytest.fixture
def m365() -> Iterator[Simulator]:
    tenant = populate(seed=7, name="Contoso", users=1, now=datetime.now(UTC))
    with Simulator(World(tenants={tenant.id: tenant})) as running:
        yield running


class Staff:
    """A token from the simulator's own issuer, for whatever resource the vault's challenge names."""

    def __init__(self, m365: Simulator) -> None:
        self._m365 = m365

    def get_token_info(self, *scopes: str, options: object = None) -> AccessTokenInfo:
        home, resource = next(iter(self._m365.world.tenants)), scopes[0].removesuffix("/.default")
        return AccessTokenInfo(self._m365.issuer.issue(home, "staff", resource, "staff"), 2**40)


class Custodian(FileCustody):
    def current(self) -> FileCustody:
        return self

    def of(self, name: str) -> FileCustody:
        return self


class House:
    """Tenants with a credential and a data key each, and the vault key that they were sealed to."""

    def __init__(self, m365: Simulator, directory: Path) -> None:
        create_passphrase(directory / "passphrase")
        self.m365 = m365
        self.custody = Custodian(directory / "keys", directory / "passphrase")
        self.events = open_event_store("memory:", os.urandom(32))
        self.store = KeyVaultSecretStore(m365.url, Staff(m365), ca_bundle=str(m365.ca_file))
        self.passwords = {tenant: secrets.token_hex(8) for tenant in TENANTS}
        holding = self.holding()
        self.first = holding.create_vault_key(CreateVaultKey(**BY)).key
        for tenant in TENANTS:
            self.append(tenant, TenantRegistered(tenant=tenant, name="C", domain="c.com", cloud="public"))
            holding.create_data_key(CreateDataKey(tenant=tenant, **BY))
            sealed = self.put(tenant, self.passwords[tenant])
            event = CredentialSealed(
                tenant=tenant,
                slot=ENTRA,
                kind="service-account",
                identity="reader@c.com",
                vault_key=self.first,
                digest=digest_of(sealed),
            )
            self.append(tenant, event)
        m365.world.requests.clear()

    def holding(self, store: KeyVaultSecretStore | None = None) -> Holding:
        return Holding(self.events, store or self.store, self.custody, lambda: NOW)

    def append(self, tenant: TenantId, event: TenantRegistered | CredentialSealed | CredentialRotated) -> None:
        stream = tenant_stream(tenant) if isinstance(event, TenantRegistered) else credential_stream(tenant, ENTRA)
        self.events.append(stream, len(self.events.read(stream)), [event], at=NOW, actor="operator:bob", cause="x")

    def put(self, tenant: TenantId, password: str) -> bytes:
        payload = credential.encode(ServiceAccount(username="reader@c.com", password=password))
        key = self.holding().keyring().active
        sealed = envelope.seal(payload, tenant=tenant, slot=ENTRA, key=key).encode()
        self.store.put(credential_name(tenant, ENTRA), sealed)
        return sealed

    def rotated(self) -> Holding:
        holding = self.holding()
        holding.answer(RotateVaultKey(replaces=self.first, **BY), "uid:0")
        return holding

    def check(self) -> None:
        """Everything is sealed to the new key, and opens to what it was."""
        holding = self.holding()
        counted = holding.answer(ListVaultKeys(count=True), "uid:0")
        assert isinstance(counted, VaultKeySet)
        assert [key.sealed for key in counted.keys] == [0, 2 * len(TENANTS)]
        for tenant, password in self.passwords.items():
            stored = self.store.get(credential_name(tenant, ENTRA)).decode()
            with envelope.open_(stored, tenant=tenant, slot=ENTRA, keyring=holding.keyring()) as payload:
                found = credential.decode(payload)
            assert isinstance(found, ServiceAccount)
            assert Secret(found.password) == Secret(password)

    def answered(self, status: int) -> int:
        return sum(1 for note in self.m365.world.requests if note[3] == status)


@pytest.fixture
def house(m365: Simulator, tmp_path: Path) -> Iterator[House]:
    made = House(m365, tmp_path)
    yield made
    made.store.close()


def step(holding: Holding) -> Resealed:
    answer = holding.answer(ResealStep(after="", limit=100, **BY), "uid:0")
    assert isinstance(answer, Resealed)
    return answer


class Crowded(KeyVaultSecretStore):
    """Answers the first reads together only: one after the other, the first would wait in vain."""

    crowd = Barrier(len(TENANTS))

    def get(self, name: str) -> bytes:
        if name.startswith("credential-"):
            self.crowd.wait(30)
        return super().get(name)

    def exchange(self, name: str, former: bytes, value: bytes) -> bool:
        self.crowd.wait(30)
        return super().get(name) == former and bool(self.put(name, value))


def test_envelopes_are_read_and_stored_several_at_once(house: House, m365: Simulator) -> None:
    house.rotated()
    store = Crowded(m365.url, Staff(m365), ca_bundle=str(m365.ca_file))
    assert len(TENANTS) <= AT_ONCE
    assert step(house.holding(store)) == Resealed(after="", resealed=2 * len(TENANTS), remaining=0)
    store.close()
    house.check()


@pytest.mark.parametrize("retry_after", [0, 1, None])
def test_a_vault_that_throttles_is_waited_for(house: House, m365: Simulator, retry_after: int | None) -> None:
    holding = house.rotated()
    m365.world.faults["*", "keyvault.set"] = [Fault("throttle", times=4, options={"retry_after": retry_after})]
    assert step(holding).resealed == 2 * len(TENANTS)
    assert house.answered(429) == 4
    house.check()


@pytest.mark.parametrize("route", ["keyvault.get", "keyvault.set", "keyvault.list"])
@pytest.mark.parametrize("after", [1, 5])
def test_a_step_that_the_vault_cut_off_is_finished_by_the_next(
    house: House, m365: Simulator, route: str, after: int
) -> None:
    holding = house.rotated()
    m365.world.faults["*", route] = [Fault("error", times=2, after=after, options={"status": 501})]
    with pytest.raises(StoreUnavailable):
        step(holding)
    m365.world.faults.clear()
    assert not step(house.holding()).left
    house.check()


def test_a_credential_that_is_set_meanwhile_is_not_lost(house: House, m365: Simulator) -> None:
    house.rotated()
    tenant, password = TENANTS[2], secrets.token_hex(8)

    class Disturbed(KeyVaultSecretStore):
        def exchange(self, name: str, former: bytes, value: bytes) -> bool:
            if name == credential_name(tenant, ENTRA):
                sealed = house.put(tenant, password)
                key = house.holding().keyring().active.thumbprint
                changed = CredentialRotated(
                    kind="service-account", identity="reader@c.com", vault_key=key, digest=digest_of(sealed)
                )
                house.append(tenant, changed)
            return super().exchange(name, former, value)

    store = Disturbed(m365.url, Staff(m365), ca_bundle=str(m365.ca_file))
    assert step(house.holding(store)).resealed == 2 * len(TENANTS) - 1
    store.close()
    house.passwords[tenant] = password
    house.check()
    assert house.store.get(data_key_name(tenant))
