"""What every secret store does, asked of each; then what is particular to one."""

from __future__ import annotations

import resource
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from azure.core.credentials import AccessTokenInfo
from azure.keyvault.secrets import SecretClient

from crypto.filestore import FileSecretStore
from crypto.keyvault import KeyVaultSecretStore
from crypto.opening import open_secret_store
from crypto.stores import (
    MemorySecretStore,
    SecretStore,
    credential_name,
    credential_of,
    data_key_name,
    data_key_of,
)
from domain.errors import Malformed, NotAllowed, SecretMissing, StorageFull, StoreUnavailable, Unreadable
from domain.ids import ENTRA, EXCHANGE_SERVER, SLOTS, TenantId
from domain.settings import Settings
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import KEY_VAULT, App, AppSecret, Fault, World


def fresh_name() -> str:
    """Key Vault keeps a name taken while it is deleted, so every test has its own."""
    return f"credential-{uuid4()}-entra"


class SecretStoreContract:
    """Asked of each store that a subclass gives as `store`."""

    def test_what_was_put_is_got(self, store: SecretStore) -> None:
        for value in (b"text", secrets.token_bytes(32), b"\x00", "tenañt".encode(), b"A" * 16_000):
            name = fresh_name()
            assert store.put(name, value)
            assert store.get(name) == value

    def test_what_was_never_put_is_missing(self, store: SecretStore) -> None:
        name = fresh_name()
        with pytest.raises(SecretMissing) as missing:
            store.get(name)
        assert missing.value.args == (name,)

    def test_the_newest_value_counts_and_has_a_version_of_its_own(self, store: SecretStore) -> None:
        name = fresh_name()
        assert store.put(name, b"old") != store.put(name, b"new", {"kind": "app-secret"})
        assert store.get(name) == b"new"

    def test_what_was_deleted_is_missing_until_it_is_put_again(self, store: SecretStore) -> None:
        name = fresh_name()
        store.put(name, b"old")
        store.delete(name)
        with pytest.raises(SecretMissing):
            store.get(name)
        assert name not in store.names("credential-")
        store.put(name, b"new")
        assert store.get(name) == b"new"

    def test_an_exchange_happens_only_while_the_former_value_stands(self, store: SecretStore) -> None:
        name = fresh_name()
        assert not store.exchange(name, b"former", b"next")
        store.put(name, b"former")
        assert store.exchange(name, b"former", b"next")
        assert not store.exchange(name, b"former", b"another")
        assert store.get(name) == b"next"

    def test_deleting_what_is_not_there_is_done_already(self, store: SecretStore) -> None:
        store.delete(fresh_name())

    def test_names_are_listed_in_order_by_prefix(self, store: SecretStore) -> None:
        prefix = f"datakey-{uuid4()}"
        names = [f"{prefix}-{number:02}" for number in range(30)]
        for name in reversed(names):
            store.put(name, b"x")
        assert store.names(prefix) == names
        assert store.names("datakey-nothing") == []

    @pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "A", "a_b", "-a", "a-", "a" * 128, "a\n", "a.tmp"])
    def test_a_name_that_not_every_store_allows_is_refused(self, store: SecretStore, name: str) -> None:
        for use in (store.get, store.delete, lambda given: store.put(given, b"x")):
            with pytest.raises(Malformed):
                use(name)

    @pytest.mark.parametrize("value", [b"", b"A" * 25_001])
    def test_a_value_that_not_every_store_takes_is_refused_and_not_quoted(
        self, store: SecretStore, value: bytes
    ) -> None:
        with pytest.raises(Malformed, match="bytes") as refusal:
            store.put(fresh_name(), value)
        assert "AAAA" not in str(refusal.value)

    def test_tags_that_not_every_store_takes_are_refused(self, store: SecretStore) -> None:
        for tags in ({str(number): "x" for number in range(16)}, {"": "x"}, {"x": "y" * 257}, {"x": "two\nlines"}):
            with pytest.raises(Malformed):
                store.put(fresh_name(), b"x", tags)


class TestMemorySecretStore(SecretStoreContract):
    @pytest.fixture
    def store(self) -> SecretStore:
        return MemorySecretStore()


class TestFileSecretStore(SecretStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> SecretStore:
        return FileSecretStore(tmp_path / "secrets")


@pytest.fixture(scope="module")
def m365() -> Iterator[Simulator]:
    tenant = populate(seed=7, name="Contoso", users=5, now=datetime.now(UTC))
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


@contextmanager
def vault_for(m365: Simulator, *operations: str) -> Iterator[KeyVaultSecretStore]:
    """A store whose identity may do only these operations (all, when none is named)."""
    client_id = str(uuid4())
    home = next(iter(m365.world.tenants.values()))
    if operations:
        home.settings |= {"key_vault_roles": {client_id: set(operations)}, "key_vault_polls": 0}
    store = KeyVaultSecretStore(m365.url, StaffIdentity(m365, client_id), ca_bundle=str(m365.ca_file))
    try:
        yield store
    finally:
        store.close()
        home.settings.clear()


@pytest.fixture(scope="module")
def key_vault(m365: Simulator) -> Iterator[KeyVaultSecretStore]:
    with vault_for(m365) as store:
        yield store


class TestKeyVaultSecretStore(SecretStoreContract):
    """Microsoft's client against the simulated vault."""

    @pytest.fixture
    def store(self, key_vault: KeyVaultSecretStore) -> SecretStore:
        return key_vault


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing past `size` bytes fails with EFBIG, as a full disk fails with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_files_and_directory_are_their_owners_only(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    FileSecretStore(directory).put("event-key", b"x")
    FileSecretStore(directory).put("event-key", b"y")
    assert mode(directory) == 0o700
    assert [(path.name, mode(path)) for path in directory.iterdir()] == [("event-key.secret", 0o600)]


def test_a_directory_that_others_could_enter_is_closed_to_them(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    directory.mkdir(mode=0o755)
    FileSecretStore(directory)
    assert mode(directory) == 0o700


def test_another_store_on_the_same_directory_sees_the_value(tmp_path: Path) -> None:
    FileSecretStore(tmp_path).put("ledger-key", b"value", {"why": "rotation"})
    assert FileSecretStore(tmp_path).get("ledger-key") == b"value"


def test_a_full_disk_leaves_the_old_value_and_no_temporary_file(tmp_path: Path) -> None:
    store = FileSecretStore(tmp_path)
    store.put("event-key", b"old")
    with files_limited_to(64), pytest.raises(StorageFull):
        store.put("event-key", b"new" * 1000)
    assert store.get("event-key") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["event-key.secret"]


def test_what_a_killed_writer_left_is_no_secret_and_goes_with_the_next_write(tmp_path: Path) -> None:
    (tmp_path / "event-key.tmp").write_bytes(b'{"version": "half')
    store = FileSecretStore(tmp_path)
    assert store.names("") == []
    with pytest.raises(SecretMissing):
        store.get("event-key")
    store.put("event-key", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["event-key.secret"]


DAMAGED = (b"", b"{}", b"\xff", b'{"version":"v","tags":{},"value":"!"}', b'{"version":"\xff"}', b"[" * 200_000)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_said_to_be_damaged_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    store = FileSecretStore(tmp_path)
    (tmp_path / "event-key.secret").write_bytes(content)
    with pytest.raises(Unreadable, match="damaged"):
        store.get("event-key")


def test_readers_see_a_whole_value_whoever_writes(tmp_path: Path) -> None:
    store = FileSecretStore(tmp_path)
    values = {bytes([letter]) * 5000 for letter in b"abcd"}
    store.put("event-key", b"a" * 5000)
    writers = [
        threading.Thread(
            target=lambda value: [FileSecretStore(tmp_path).put("event-key", value) for _ in range(8)], args=(value,)
        )
        for value in values
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert store.get("event-key") in values
    for writer in writers:
        writer.join()
    assert [path.name for path in tmp_path.iterdir()] == ["event-key.secret"]


def test_a_directory_that_is_gone_is_unavailable_and_not_empty_handed(tmp_path: Path) -> None:
    store = FileSecretStore(tmp_path / "secrets")
    (tmp_path / "secrets").rmdir()
    with pytest.raises(StoreUnavailable):
        store.put("event-key", b"x")
    with pytest.raises(StoreUnavailable):
        store.names("")
    (tmp_path / "secrets").write_bytes(b"a file")
    with pytest.raises(StoreUnavailable):
        store.get("event-key")


def settings_with(secrets_url: str) -> Settings:
    return Settings(state="/", eventstore="memory:", secrets=secrets_url, batches="memory://", clouds={})


def test_a_file_url_opens_a_directory(tmp_path: Path) -> None:
    store = open_secret_store(settings_with(f"file://{tmp_path}/a%20b"))
    store.put("event-key", b"x")
    assert (tmp_path / "a b" / "event-key.secret").exists()


def test_what_ends_the_path_of_other_urls_is_part_of_a_directory_s_name(tmp_path: Path) -> None:
    open_secret_store(settings_with(f"file://{tmp_path}/a#b?c")).put("event-key", b"x")
    assert (tmp_path / "a#b?c" / "event-key.secret").exists()


@pytest.mark.parametrize(
    "url",
    [
        *("", "secrets", "file://secrets", "http://x.example", "https://", "https://x/y", "https://[abc"),
        *("https://x:port", "https://x?sig=hunter2", "https://x#hunter2", "https://user:hunter2@x.vault.azure.net/"),
    ],
)
def test_another_url_is_no_secret_store_and_no_password_in_it_is_quoted(url: str) -> None:
    with pytest.raises(Malformed, match="secret store") as refusal:
        open_secret_store(settings_with(url))
    assert "hunter2" not in str(refusal.value)


def test_of_what_others_have_put_during_an_exchange_in_a_key_vault_the_newest_stands() -> None:
    tenant = populate(seed=7, name="Contoso", users=1, now=datetime.now(UTC))
    began, ticks = datetime.now(UTC), count()
    world = World(tenants={tenant.id: tenant})
    with Simulator(world, now=lambda: began + timedelta(seconds=next(ticks))) as azure:

        class Overtaken(KeyVaultSecretStore):
            others: Sequence[bytes] = (b"older", b"newer")

            def put(self, name: str, value: bytes, tags: Mapping[str, str] = {}) -> str:
                while self.others and value == b"ours":
                    other, *self.others = self.others
                    super().put(name, other)
                return super().put(name, value, tags)

        store = Overtaken(azure.url, StaffIdentity(azure, str(uuid4())), ca_bundle=str(azure.ca_file))
        name = fresh_name()
        store.put(name, b"former")
        world.requests.clear()
        assert not store.exchange(name, b"former", b"ours")
        assert store.get(name) == b"newer"
        assert [route for _, route, _, status in world.requests if status == 200].count("keyvault.set") == 4
        store.close()


def test_names_say_what_they_hold() -> None:
    tenant = TenantId(str(uuid4()))
    for slot in SLOTS:
        assert credential_of(credential_name(tenant, slot)) == (tenant, slot)
    assert data_key_of(data_key_name(tenant)) == tenant
    assert credential_name(tenant, ENTRA) == f"credential-{tenant}-entra"
    assert credential_name(tenant, EXCHANGE_SERVER) == f"credential-{tenant}-exchange-server"
    for name in ("event-key", f"credential-{tenant}", f"credential-{tenant}-other", data_key_name(tenant)):
        with pytest.raises(Malformed):
            credential_of(name)
    for name in ("event-key", credential_name(tenant, ENTRA), "datakey-" + "0" * 36):
        with pytest.raises(Malformed):
            data_key_of(name)


def test_who_sets_secrets_need_not_be_able_to_read_them(m365: Simulator, key_vault: KeyVaultSecretStore) -> None:
    name = fresh_name()
    with vault_for(m365, "set") as writer:
        writer.put(name, b"sealed")
        with pytest.raises(NotAllowed, match="Forbidden"):
            writer.get(name)
        with pytest.raises(NotAllowed, match="Forbidden"):
            writer.names("credential-")
    assert key_vault.get(name) == b"sealed"


def test_a_value_that_is_not_what_its_content_type_says_is_unreadable_and_not_quoted(
    m365: Simulator, key_vault: KeyVaultSecretStore
) -> None:
    name = fresh_name()
    operator = StaffIdentity(m365, str(uuid4()))
    trusted: dict[str, Any] = {"verify_challenge_resource": False, "connection_verify": str(m365.ca_file)}
    with SecretClient(m365.url, operator, **trusted) as client:
        client.set_secret(name, "no base64!", content_type="application/octet-stream;base64")
    with pytest.raises(Unreadable, match="no base64 and") as refusal:
        key_vault.get(name)
    assert "base64!" not in str(refusal.value)


def test_a_secret_that_somebody_has_disabled_is_unreadable_and_not_forbidden(
    m365: Simulator, key_vault: KeyVaultSecretStore
) -> None:
    name = fresh_name()
    key_vault.put(name, b"x")
    operator = StaffIdentity(m365, str(uuid4()))
    trusted: dict[str, Any] = {"verify_challenge_resource": False, "connection_verify": str(m365.ca_file)}
    with SecretClient(m365.url, operator, **trusted) as client:
        client.update_secret_properties(name, enabled=False)
    with pytest.raises(Unreadable, match="disabled"):
        key_vault.get(name)


def test_a_secret_that_may_not_be_purged_is_deleted_and_its_name_can_be_used_again(m365: Simulator) -> None:
    name = fresh_name()
    with vault_for(m365, "get", "set", "list", "delete", "recover") as store:
        store.put(name, b"old")
        kept = store.delete(name)
        assert kept is not None
        assert (kept.name, kept.why) == (name, "purge-refused")
        assert kept.until is not None
        assert timedelta(days=89) < kept.until - datetime.now(UTC) <= timedelta(days=90)
        assert store.delete(name) == kept
        with pytest.raises(SecretMissing):
            store.get(name)
        store.put(name, b"new")
        assert store.get(name) == b"new"


def test_what_purge_protection_keeps_is_told_with_its_end(m365: Simulator) -> None:
    name, home = fresh_name(), next(iter(m365.world.tenants.values()))
    with vault_for(m365) as store:
        home.settings |= {"key_vault_purge_protection": True, "key_vault_retention_days": 7, "key_vault_polls": 0}
        store.put(name, b"x")
        kept = store.delete(name)
        assert kept is not None
        assert (kept.why, kept.until is not None and kept.until < datetime.now(UTC) + timedelta(days=7)) == (
            "purge-protected",
            True,
        )
        home.settings["key_vault_purge_protection"] = False
        assert store.delete(name) is None


def test_whether_anything_is_kept_is_said_to_be_unseen_by_who_may_not_look(m365: Simulator) -> None:
    with vault_for(m365, "set", "delete") as store:
        kept = store.delete(fresh_name())
        assert kept is not None
        assert (kept.why, kept.until) == ("unseen", None)
    with vault_for(m365, "delete", "list") as store:
        assert store.delete(fresh_name()) is None


def test_who_may_purge_and_not_look_waits_until_the_deletion_has_ended(
    m365: Simulator, key_vault: KeyVaultSecretStore
) -> None:
    name = fresh_name()
    with vault_for(m365, "set", "delete", "purge") as store:
        next(iter(m365.world.tenants.values())).settings["key_vault_polls"] = 1
        store.put(name, b"x")
        assert store.delete(name) is None
    with vault_for(m365, "set") as store:
        assert store.put(name, b"free again")


def test_a_secret_deleted_without_being_purged_is_purged_by_the_next_delete(
    m365: Simulator, key_vault: KeyVaultSecretStore
) -> None:
    name = fresh_name()
    with vault_for(m365, "set", "delete", "list") as store:
        store.put(name, b"x")
        store.delete(name)
        with pytest.raises(NotAllowed, match="may not recover it"):
            store.put(name, b"the name is taken, and this identity may not recover it")
    key_vault.delete(name)
    with vault_for(m365, "set") as store:
        assert store.put(name, b"free again")


def test_one_bad_answer_of_the_vault_is_survived(m365: Simulator, key_vault: KeyVaultSecretStore) -> None:
    name = fresh_name()
    key_vault.put(name, b"x")
    m365.world.faults["*", "keyvault.get"] = [Fault("error", options={"status": 503})]
    assert key_vault.get(name) == b"x"


@pytest.fixture
def vault_app(m365: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that may ask tokens for the vault, and the environment that azure-identity reads."""
    tenant = next(iter(m365.world.tenants.values()))
    secret = secrets.token_urlsafe(24)
    app = App(client_id=str(uuid4()), name="Tenantry vault", consented={KEY_VAULT})
    app.secrets.append(AppSecret(value=secret, expires=datetime.now(UTC) + timedelta(days=1)))
    tenant.apps[app.client_id] = app
    for name, value in (("TENANT_ID", tenant.id), ("CLIENT_ID", app.client_id), ("CLIENT_SECRET", secret)):
        monkeypatch.setenv(f"AZURE_{name}", value)


def vault_settings(m365: Simulator) -> Settings:
    return msgspec.structs.replace(
        settings_with(m365.url), secrets_authority=m365.url, secrets_ca_bundle=str(m365.ca_file)
    )


@contextmanager
def opened_vault(m365: Simulator) -> Iterator[SecretStore]:
    store = open_secret_store(
        msgspec.structs.replace(
            settings_with(m365.url), secrets_authority=m365.url, secrets_ca_bundle=str(m365.ca_file)
        )
    )
    assert isinstance(store, KeyVaultSecretStore)
    yield store
    store.close()


@pytest.mark.usefixtures("vault_app")
def test_an_https_url_opens_a_key_vault_with_the_identity_of_the_environment(m365: Simulator) -> None:
    name = fresh_name()
    with opened_vault(m365) as store:
        store.put(name, b"x")
        assert store.get(name) == b"x"


@pytest.mark.usefixtures("vault_app")
def test_an_identity_that_cannot_sign_in_is_told_so(m365: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = secrets.token_urlsafe(24)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", wrong)
    with opened_vault(m365) as store, pytest.raises(NotAllowed, match="sign in") as refusal:
        store.get(fresh_name())
    assert wrong not in repr(refusal.value)
