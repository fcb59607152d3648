"""What every custody of vault keys does, asked of each form; then what is particular to one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from azure.core.credentials import AccessTokenInfo
from azure.keyvault.keys import KeyClient

from crypto import envelope
from crypto.keyring import Keyring, LocalKey, VaultPublicKey
from crypto.keyvault import KeyVaultSecretStore
from crypto.secret import Secret
from crypto.stores import MemorySecretStore
from domain.errors import EnvelopeRejected, Malformed, NotAllowed, StoreUnavailable, Unreadable
from domain.ids import ENTRA, TenantId
from domain.settings import Settings
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import Fault, World
from vault.custody import Custody, FileCustody, KeyVaultSecretCustody, create_passphrase, open_custody
from vault.keyvault import DistantKey, KeyVaultKeyCustody

TENANT = TenantId(str(uuid4()))


@pytest.fixture(scope="module")
def m365() -> Iterator[Simulator]:
    tenant = populate(seed=7, name="Contoso", users=2, now=datetime.now(UTC))
    tenant.settings["key_vault_polls"] = 0  # the client's poller waits 2 s for a deletion that is not seen at once
    with Simulator(World(tenants={tenant.id: tenant})) as running:
        yield running


class StaffIdentity:
    """A token from the simulator's own issuer, for whatever resource the vault's challenge names."""

    def __init__(self, m365: Simulator, client_id: str) -> None:
        self._m365 = m365
        self._client_id = client_id
        self._tenant = next(iter(m365.world.tenants))

    def get_token_info(self, *scopes: str, options: object = None) -> AccessTokenInfo:
        resource = scopes[0].removesuffix("/.default")
        token = self._m365.issuer.issue(self._tenant, self._client_id, resource, str(uuid4()))
        return AccessTokenInfo(token, int(time.time()) + 3000)


def identity(m365: Simulator, *operations: str) -> Any:
    tenant = next(iter(m365.world.tenants.values()))
    client_id = str(uuid4())
    if operations:
        tenant.settings.setdefault("key_vault_roles", {})[client_id] = set(operations)
    else:
        tenant.settings.setdefault("key_vault_roles", {})[client_id] = "Key Vault Administrator"
    return StaffIdentity(m365, client_id)


def sealed(key: VaultPublicKey, payload: Secret) -> str:
    return envelope.seal(payload, tenant=TENANT, slot=ENTRA, key=key)


def opened(custody: Custody, key: VaultPublicKey, text: str) -> Secret:
    keyring = Keyring(custody.halves([key.thumbprint]), key.thumbprint)
    return envelope.open_(text, tenant=TENANT, slot=ENTRA, keyring=keyring)


class CustodyContract:
    """Asked of each custody that a subclass gives as `custody`."""

    def test_a_key_that_was_created_opens_what_is_sealed_to_it(self, custody: Custody) -> None:
        payload = Secret(secrets.token_bytes(64))
        key = custody.create()
        assert opened(custody, key, sealed(key, payload)) == payload

    def test_each_key_opens_its_own(self, custody: Custody) -> None:
        one, other = custody.create(), custody.create()
        halves = custody.halves([one.thumbprint, other.thumbprint])
        assert set(halves) == {one.thumbprint, other.thumbprint}
        keyring = Keyring(halves, one.thumbprint)
        payload = Secret(secrets.token_bytes(64))
        for key in (one, other):
            assert envelope.open_(sealed(key, payload), tenant=TENANT, slot=ENTRA, keyring=keyring) == payload
        _, *rest = sealed(one, payload).split(".")
        stolen = ".".join([sealed(other, payload).split(".")[0], *rest])
        with pytest.raises(EnvelopeRejected):
            envelope.open_(stolen, tenant=TENANT, slot=ENTRA, keyring=keyring)

    def test_a_destroyed_key_is_gone_and_destroying_it_again_is_done_already(self, custody: Custody) -> None:
        kept, gone = custody.create(), custody.create()
        custody.destroy(gone.thumbprint)
        custody.destroy(gone.thumbprint)
        with pytest.raises(Unreadable):
            custody.halves([gone.thumbprint])
        assert set(custody.halves([kept.thumbprint])) == {kept.thumbprint}

    def test_a_key_that_never_was_is_one_clear_error(self, custody: Custody) -> None:
        with pytest.raises(Unreadable):
            custody.halves(["A" * 43])


class TestFileCustody(CustodyContract):
    @pytest.fixture
    def custody(self, tmp_path: Path) -> Custody:
        create_passphrase(tmp_path / "keys" / "passphrase")
        return FileCustody(tmp_path / "keys", tmp_path / "keys" / "passphrase")


class TestKeyVaultSecretCustody(CustodyContract):
    @pytest.fixture
    def custody(self, m365: Simulator) -> Iterator[Custody]:
        store = KeyVaultSecretStore(m365.url, identity(m365), ca_bundle=str(m365.ca_file))
        yield KeyVaultSecretCustody(f"{m365.url}/secrets/{_prefix()}", store, None)
        store.close()


class TestKeyVaultKeyCustody(CustodyContract):
    @pytest.fixture
    def custody(self, m365: Simulator) -> Iterator[Custody]:
        with key_custody(m365) as made:
            yield made


def _prefix() -> str:
    return f"vault{uuid4().hex[:8]}"


def key_custody(m365: Simulator, *operations: str, prefix: str = "") -> KeyVaultKeyCustody:
    url = f"{m365.url}/keys/{prefix or _prefix()}"
    return KeyVaultKeyCustody(url, identity(m365, *operations), ca_bundle=str(m365.ca_file))


# files


def test_a_place_that_is_no_directory_is_told_and_no_fault_of_ours(tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    create_passphrase(passphrase)
    for use in (
        FileCustody(passphrase / "keys", passphrase).create,
        lambda: FileCustody(passphrase / "keys", passphrase).destroy("A" * 43),
        lambda: create_passphrase(passphrase / "keys" / "passphrase"),
    ):
        with pytest.raises(StoreUnavailable, match="vault's keys"):
            use()


# a Key Vault's secret


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_key_in_a_secret_is_encrypted_when_a_passphrase_is_named(tmp_path: Path, encrypted: bool) -> None:
    passphrase = tmp_path / "passphrase"
    create_passphrase(passphrase)
    store = MemorySecretStore()
    custody = KeyVaultSecretCustody("https://x.vault.azure.net/secrets/vault", store, passphrase if encrypted else None)
    key = custody.create()
    (name,) = store.names("vault-")
    label = b"ENCRYPTED PRIVATE KEY" if encrypted else b"PRIVATE KEY"
    assert store.get(name).startswith(b"-----BEGIN " + label)
    other = KeyVaultSecretCustody(custody.name, store, None if encrypted else passphrase)
    with pytest.raises(Unreadable):
        other.halves([key.thumbprint])


# a Key Vault's key


def test_a_key_that_never_leaves_is_asked_to_unwrap_and_its_public_half_only_is_here(m365: Simulator) -> None:
    with key_custody(m365) as custody:
        key = custody.create()
        m365.world.requests.clear()
        text = sealed(key, Secret(b"payload"))
        assert not m365.world.requests, "sealing needs no vault"
        half = custody.halves([key.thumbprint])[key.thumbprint]
        assert isinstance(half, DistantKey)
        assert not isinstance(half, LocalKey)
        keyring = Keyring({key.thumbprint: half}, key.thumbprint)
        m365.world.requests.clear()
        assert envelope.open_(text, tenant=TENANT, slot=ENTRA, keyring=keyring) == Secret(b"payload")
        assert [route for _, route, _, status in m365.world.requests if status == 200] == ["keyvault.keys.unwrap"]


def test_a_changed_envelope_is_rejected_and_a_vault_that_is_away_is_not_its_fault(m365: Simulator) -> None:
    home = next(iter(m365.world.tenants))
    with key_custody(m365) as custody:
        key = custody.create()
        header, encrypted, *rest = sealed(key, Secret(b"payload")).split(".")
        changed = ("B" if encrypted[0] == "A" else "A") + encrypted[1:]
        with pytest.raises(EnvelopeRejected):
            opened(custody, key, ".".join([header, changed, *rest]))
        m365.world.faults[home, "keyvault.keys.unwrap"] = [Fault("error", times=99, options={"status": 501})]
        with pytest.raises(StoreUnavailable):
            opened(custody, key, ".".join([header, encrypted, *rest]))
        m365.world.faults.clear()


def test_who_may_not_unwrap_is_told_what_to_grant(m365: Simulator) -> None:
    prefix = _prefix()
    with key_custody(m365, prefix=prefix) as owner, key_custody(m365, "keys.get", "keys.list", prefix=prefix) as other:
        key = owner.create()
        with pytest.raises(NotAllowed, match="Grant it"):
            opened(other, key, sealed(key, Secret(b"payload")))
        with pytest.raises(NotAllowed, match="Grant it"):
            other.create()


def test_a_destruction_that_was_cut_off_after_disabling_is_finished(m365: Simulator) -> None:
    """The identity may disable and not delete at first: what a kill between the two leaves."""
    prefix = _prefix()
    everything = ("keys.get", "keys.list", "keys.create", "keys.update")
    with key_custody(m365, *everything, prefix=prefix) as half_way, key_custody(m365, prefix=prefix) as owner:
        key = half_way.create()
        with pytest.raises(NotAllowed):
            half_way.destroy(key.thumbprint)
        with pytest.raises(Unreadable):
            owner.halves([key.thumbprint])
        owner.destroy(key.thumbprint)
        m365.world.requests.clear()
        owner.destroy(key.thumbprint)
        assert not [route for _, route, _, _ in m365.world.requests if "delete" in route]


@pytest.mark.parametrize("sku", ["premium", "standard"])
def test_a_key_is_made_in_the_hsm_of_a_vault_that_has_one(m365: Simulator, sku: str) -> None:
    home, url = next(iter(m365.world.tenants.values())), f"{m365.url}/keys/{_prefix()}"
    home.settings["key_vault_sku"] = sku
    with KeyVaultKeyCustody(url, identity(m365), ca_bundle=str(m365.ca_file), hardware=True) as custody:
        if sku == "standard":
            with pytest.raises(NotAllowed, match=r"Hardware key operation.*premium SKU, or set \[vault\] key_type"):
                custody.create()
            return
        key, payload = custody.create(), Secret(secrets.token_bytes(64))
        assert opened(custody, key, sealed(key, payload)) == payload
        assert [one.key_type for one in _made(m365, url)] == ["RSA-HSM"]


def _made(m365: Simulator, url: str) -> list[Any]:
    trusted: dict[str, Any] = {"verify_challenge_resource": False, "connection_verify": str(m365.ca_file)}
    with KeyClient(m365.url, identity(m365), **trusted) as client:
        prefix = url.rpartition("/")[2]
        names = [one.name for one in client.list_properties_of_keys() if one.name and one.name.startswith(prefix)]
        return [client.get_key(name) for name in names]


def test_who_may_not_make_a_key_in_the_hsm_is_told_what_to_grant(m365: Simulator) -> None:
    who = identity(m365, "keys.get", "keys.list")
    with (
        KeyVaultKeyCustody(f"{m365.url}/keys/{_prefix()}", who, ca_bundle=str(m365.ca_file), hardware=True) as custody,
        pytest.raises(NotAllowed, match="Grant it"),
    ):
        custody.create()


# what a vault keeps of a key that it was told to delete


@pytest.fixture(params=["secrets", "keys"])
def distant(request: pytest.FixtureRequest, m365: Simulator) -> Iterator[Callable[..., Custody]]:
    """Makes custodies of one prefix, for an identity that may do these operations, or everything."""
    prefix, closing = _prefix(), ExitStack()

    def made(*operations: str) -> Custody:
        if request.param == "keys":
            return closing.enter_context(key_custody(m365, *operations, prefix=prefix))
        store = KeyVaultSecretStore(m365.url, identity(m365, *operations), ca_bundle=str(m365.ca_file))
        closing.callback(store.close)
        return KeyVaultSecretCustody(f"{m365.url}/secrets/{prefix}", store, None)

    with closing:
        yield made


def test_a_destroyed_key_that_the_vault_keeps_is_told_with_its_end_and_purged_when_it_may_be(
    m365: Simulator, distant: Callable[..., Custody]
) -> None:
    home, custody = next(iter(m365.world.tenants.values())), distant()
    key = custody.create().thumbprint
    home.settings |= {"key_vault_purge_protection": True, "key_vault_retention_days": 7}
    kept = custody.destroy(key)
    assert kept is not None
    assert (kept.why, kept.until is not None) == ("purge-protected", True)
    assert custody.destroy(key) == kept
    del home.settings["key_vault_purge_protection"], home.settings["key_vault_retention_days"]
    assert custody.destroy(key) is None
    assert custody.destroy(key) is None


def test_a_destroyed_key_that_this_identity_may_not_purge_is_told(distant: Callable[..., Custody]) -> None:
    key = distant().create().thumbprint
    but_purge = ("get", "set", "list", "delete", "keys.get", "keys.list", "keys.update", "keys.delete")
    kept = distant(*but_purge).destroy(key)
    assert kept is not None
    assert (kept.why, kept.until is not None) == ("purge-refused", True)
    assert distant().destroy(key) is None


# which one


@pytest.mark.parametrize(
    ("custody", "key_type"), [("file", "RSA-HSM"), ("https://x.vault.azure.net/keys/tenantry", "EC")]
)
def test_a_key_type_that_the_custody_has_not_is_malformed(tmp_path: Path, custody: str, key_type: str) -> None:
    settings = Settings(
        state=str(tmp_path),
        eventstore="memory:",
        secrets="file:///x",
        batches="file:///x",
        clouds={},
        custody=custody,
        key_type=key_type,
    )
    with pytest.raises(Malformed, match="key type"):
        open_custody(settings).current()


@pytest.mark.parametrize(
    "name",
    [
        *("", "nowhere", "file:///x", "https://x.vault.azure.net", "https://x/keys/", "http://x/keys/a", "file:"),
        "https://user:hunter2@x.vault.azure.net/keys/a",
    ],
)
def test_a_custody_that_is_none_is_malformed_and_no_password_in_it_is_quoted(tmp_path: Path, name: str) -> None:
    settings = Settings(
        state=str(tmp_path), eventstore="memory:", secrets="file:///x", batches="file:///x", clouds={}, custody=name
    )
    with pytest.raises(Malformed) as refusal:
        open_custody(settings).current()
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("file", FileCustody),
        ("https://x.vault.azure.net/secrets/tenantry", KeyVaultSecretCustody),
        ("https://x.vault.azure.net/keys/tenantry", KeyVaultKeyCustody),
    ],
)
def test_settings_name_one_of_three_custodies(tmp_path: Path, name: str, kind: type) -> None:
    settings = Settings(
        state=str(tmp_path), eventstore="memory:", secrets="file:///x", batches="file:///x", clouds={}, custody=name
    )
    custodies = open_custody(settings)
    assert isinstance(custodies.current(), kind)
    assert custodies.current() is custodies.of(name)
