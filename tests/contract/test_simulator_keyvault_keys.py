"""Key Vault's keys as azure-keyvault-keys and azure-identity see them."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.keyvault.keys import JsonWebKey, KeyClient, KeyVaultKey
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from simulator.credentials import register_secret_app
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import Tenant, World

SOON = 0.01
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
ALGORITHM = KeyWrapAlgorithm.rsa_oaep_256


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    tenant = populate(seed=1, name="Vault Owner", users=2, now=datetime.now(UTC))
    with Simulator(World(tenants={tenant.id: tenant})) as running:
        yield running


@pytest.fixture
def home(simulator: Simulator) -> Iterator[Tenant]:
    tenant = next(iter(simulator.world.tenants.values()))
    yield tenant
    tenant.settings.clear()


class Vault:
    """The two clients of one identity."""

    def __init__(self, simulator: Simulator, home: Tenant, allowed: Any) -> None:
        now = datetime.now(UTC)
        app, secret = register_secret_app(home, "vault user", now + timedelta(days=1))
        if allowed is not None:
            home.settings.setdefault("key_vault_roles", {})[app.client_id] = allowed
        self._options: dict[str, Any] = {"connection_verify": str(simulator.ca_file)}
        self._credential = ClientSecretCredential(
            home.id, app.client_id, secret, authority=simulator.url, disable_instance_discovery=True, **self._options
        )
        self._options["verify_challenge_resource"] = False
        self.keys = KeyClient(simulator.url, self._credential, **self._options)
        self._opened: list[Any] = [self.keys, self._credential]

    def crypto(self, key: KeyVaultKey | str) -> CryptographyClient:
        client = CryptographyClient(key, self._credential, **self._options)
        self._opened.append(client)
        return client

    def close(self) -> None:
        for each in self._opened:
            each.close()


Enter = Callable[..., Vault]


@pytest.fixture
def enter(simulator: Simulator, home: Tenant) -> Iterator[Enter]:
    opened: list[Vault] = []

    def vault(allowed: Any = None) -> Vault:
        opened.append(Vault(simulator, home, allowed))
        return opened[-1]

    yield vault
    for each in opened:
        each.close()


def new_name() -> str:
    return f"key-{uuid.uuid4().hex}"


def public_half(key: KeyVaultKey) -> rsa.RSAPublicKey:
    jwk: Any = key.key
    return rsa.RSAPublicNumbers(n=int.from_bytes(jwk.n), e=int.from_bytes(jwk.e)).public_key()


def test_what_is_wrapped_with_the_public_half_is_unwrapped_by_the_vault(enter: Enter) -> None:
    vault = enter()
    key = vault.keys.create_rsa_key(new_name(), size=3072, key_operations=["unwrapKey"])
    assert isinstance(key.key, JsonWebKey)
    assert (public_half(key).key_size, getattr(key.key, "d", None)) == (3072, None)
    content_key = secrets.token_bytes(32)
    wrapped = public_half(key).encrypt(content_key, OAEP)
    assert vault.crypto(key).unwrap_key(ALGORITHM, wrapped).key == content_key
    assert key.id is not None
    assert vault.crypto(key.id).unwrap_key(ALGORITHM, wrapped).key == content_key


def test_wrapping_happens_at_the_vault_when_the_public_half_may_not_be_read(simulator: Simulator, enter: Enter) -> None:
    owner = enter("Key Vault Crypto Officer")
    key = owner.keys.create_rsa_key(new_name(), size=2048)
    assert key.id is not None
    wrapper = enter({"keys.wrap"})
    simulator.world.requests.clear()
    wrapped = wrapper.crypto(key.id).wrap_key(ALGORITHM, b"x" * 32).encrypted_key
    assert "keyvault.keys.wrap" in [route for _, route, _, status in simulator.world.requests if status == 200]
    assert owner.crypto(key).unwrap_key(ALGORITHM, wrapped).key == b"x" * 32
    with pytest.raises(HttpResponseError) as refused:
        wrapper.crypto(key.id).unwrap_key(ALGORITHM, wrapped)
    assert refused.value.status_code == 403
    assert "keys/unwrap/action" in str(refused.value)


def test_what_was_changed_or_wrapped_for_another_key_is_a_bad_parameter(enter: Enter) -> None:
    vault = enter()
    one, other = (vault.keys.create_rsa_key(new_name(), size=2048) for _ in range(2))
    wrapped = public_half(one).encrypt(b"x" * 32, OAEP)
    sha1 = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - what must be refused
    for key, value, algorithm in (
        (other, wrapped, ALGORITHM),
        (one, wrapped[:-1] + bytes([wrapped[-1] ^ 1]), ALGORITHM),
        (one, b"short", ALGORITHM),
        (one, public_half(one).encrypt(b"x" * 32, sha1), KeyWrapAlgorithm.rsa_oaep),
    ):
        with pytest.raises(HttpResponseError) as refused:
            vault.crypto(key).unwrap_key(algorithm, value)
        assert refused.value.status_code == 400


def test_a_rotated_key_has_versions_and_the_former_still_unwraps(enter: Enter) -> None:
    vault, name = enter(), new_name()
    former = vault.keys.create_rsa_key(name, size=2048, tags={"number": "1"})
    newest = vault.keys.create_rsa_key(name, size=2048)
    wrapped = public_half(former).encrypt(b"x" * 32, OAEP)
    assert vault.crypto(former).unwrap_key(ALGORITHM, wrapped).key == b"x" * 32
    assert vault.keys.get_key(name).properties.version == newest.properties.version
    assert vault.keys.get_key(name, former.properties.version).properties.tags == {"number": "1"}
    versions = {one.version for one in vault.keys.list_properties_of_key_versions(name)}
    assert versions == {former.properties.version, newest.properties.version}
    assert name in [one.name for one in vault.keys.list_properties_of_keys()]


def test_a_key_that_is_disabled_or_made_for_something_else_does_not_unwrap(enter: Enter) -> None:
    vault, name = enter(), new_name()
    key = vault.keys.create_rsa_key(name, size=2048)
    wrapped = public_half(key).encrypt(b"x" * 32, OAEP)
    vault.keys.update_key_properties(name, enabled=False)
    with pytest.raises(HttpResponseError) as refused:
        vault.crypto(key).unwrap_key(ALGORITHM, wrapped)
    assert refused.value.status_code == 403
    assert not next(one for one in vault.keys.list_properties_of_keys() if one.name == name).enabled
    vault.keys.update_key_properties(name, enabled=True, key_operations=["wrapKey"])
    with pytest.raises(HttpResponseError) as refused:
        vault.crypto(key).unwrap_key(ALGORITHM, wrapped)
    assert refused.value.status_code == 403


def test_a_key_dies_returns_and_is_purged(enter: Enter, home: Tenant) -> None:
    home.settings["key_vault_polls"] = 2
    vault, name = enter(), new_name()
    key = vault.keys.create_rsa_key(name, size=2048)
    wrapped = public_half(key).encrypt(b"x" * 32, OAEP)
    poller = vault.keys.begin_delete_key(name, _polling_interval=SOON)
    assert poller.result().deleted_date is not None
    poller.wait()
    with pytest.raises(HttpResponseError):
        vault.crypto(key).unwrap_key(ALGORITHM, wrapped)
    with pytest.raises(ResourceExistsError, match="deleted but recoverable"):
        vault.keys.create_rsa_key(name, size=2048)
    assert name in [one.name for one in vault.keys.list_deleted_keys()]
    vault.keys.begin_recover_deleted_key(name, _polling_interval=SOON).wait()
    assert vault.crypto(key).unwrap_key(ALGORITHM, wrapped).key == b"x" * 32
    vault.keys.begin_delete_key(name, _polling_interval=SOON).wait()
    vault.keys.purge_deleted_key(name)
    with pytest.raises(ResourceNotFoundError):
        vault.keys.get_deleted_key(name)


def test_roles_of_secrets_are_no_roles_of_keys(enter: Enter) -> None:
    for role in ("Key Vault Secrets Officer", ()):
        with pytest.raises(HttpResponseError) as refused:
            enter(role).keys.create_rsa_key(new_name(), size=2048)
        assert refused.value.status_code == 403
        assert refused.value.error is not None
        assert refused.value.error.innererror == {"code": "ForbiddenByRbac"}


def test_another_kind_of_key_is_a_bad_parameter(enter: Enter) -> None:
    keys = enter().keys
    calls: tuple[Callable[[], object], ...] = (
        lambda: keys.create_ec_key(new_name()),
        lambda: keys.create_rsa_key(new_name(), size=1024),
    )
    for make in calls:
        with pytest.raises(HttpResponseError) as refused:
            make()
        assert refused.value.status_code == 400
