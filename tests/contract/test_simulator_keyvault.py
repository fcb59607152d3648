"""Key Vault as azure-keyvault-secrets and azure-identity see it."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity import CertificateCredential, ClientSecretCredential
from azure.keyvault.secrets import SecretClient

from simulator.credentials import register_certificate_app, register_secret_app
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import KEY_VAULT, Fault, Tenant, World

SOON = 0.01


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    now = datetime.now(UTC)
    world = World()
    for number, name in enumerate(("Vault Owner", "Somebody Else")):
        tenant = populate(seed=number, name=name, users=2, now=now)
        world.tenants[tenant.id] = tenant
    with Simulator(world) as running:
        yield running


@pytest.fixture
def home(simulator: Simulator) -> Iterator[Tenant]:
    tenant = next(iter(simulator.world.tenants.values()))
    yield tenant
    tenant.settings.clear()
    simulator.world.faults.clear()


Connect = Callable[..., SecretClient]


@pytest.fixture
def connect(simulator: Simulator, home: Tenant) -> Iterator[Connect]:
    opened: list[Any] = []

    def client(*, allowed: Any = None, by: str = "secret", tenant: Tenant = home, **options: Any) -> SecretClient:
        now = datetime.now(UTC)
        common: dict[str, Any] = {"connection_verify": str(simulator.ca_file)}
        identity = {"authority": simulator.url, "disable_instance_discovery": True, **common}
        credential: Any
        if by == "certificate":
            app, pem = register_certificate_app(tenant, "vault user", now)
            credential = CertificateCredential(tenant.id, app.client_id, certificate_data=pem, **identity)
        else:
            app, secret = register_secret_app(tenant, "vault user", now + timedelta(days=1))
            credential = ClientSecretCredential(tenant.id, app.client_id, secret, **identity)
        if allowed is not None:
            tenant.settings.setdefault("key_vault_roles", {})[app.client_id] = allowed
        made = SecretClient(simulator.url, credential, verify_challenge_resource=False, **common, **options)
        opened.extend((made, credential))
        return made

    yield client
    for each in opened:
        each.close()


def new_name() -> str:
    return f"cred-{uuid.uuid4().hex}"


@pytest.mark.parametrize("by", ["secret", "certificate"])
def test_a_secret_lives_dies_returns_and_is_purged(connect: Connect, home: Tenant, by: str) -> None:
    home.settings["key_vault_polls"] = 3
    client, name = connect(by=by), new_name()
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    first = client.set_secret(name, "one", content_type="text/plain", tags={"tenant": "a"}, expires_on=expires)
    second = client.set_secret(name, "two")
    assert first.properties.version is not None
    assert client.get_secret(name).value == "two"
    old = client.get_secret(name, first.properties.version)
    assert (old.value, old.properties.content_type, old.properties.tags, old.properties.expires_on) == (
        "one",
        "text/plain",
        {"tenant": "a"},
        expires,
    )
    changed = client.update_secret_properties(name, tags={"tenant": "b"})
    assert (changed.version, changed.tags) == (second.properties.version, {"tenant": "b"})

    poller = client.begin_delete_secret(name, _polling_interval=SOON)
    assert poller.result().deleted_date is not None
    with pytest.raises(ResourceNotFoundError):
        client.get_deleted_secret(name)
    poller.wait()
    with pytest.raises(ResourceNotFoundError):
        client.get_secret(name)
    assert client.get_deleted_secret(name).properties.name == name
    with pytest.raises(ResourceExistsError, match="deleted but recoverable"):
        client.set_secret(name, "three")
    assert name in [item.name for item in client.list_deleted_secrets()]

    client.begin_recover_deleted_secret(name, _polling_interval=SOON).wait()
    assert client.get_secret(name).value == "two"

    poller = client.begin_delete_secret(name, _polling_interval=SOON)
    poller.wait()
    client.purge_deleted_secret(name)
    with pytest.raises(ResourceNotFoundError):
        client.get_deleted_secret(name)
    assert client.set_secret(name, "again").value == "again"


def test_a_deletion_is_seen_only_after_some_looks(connect: Connect, home: Tenant) -> None:
    home.settings["key_vault_polls"] = 2
    client, name = connect(), new_name()
    client.set_secret(name, "one")
    poller = client.begin_delete_secret(name, _polling_interval=SOON)
    with pytest.raises(HttpResponseError, match="being deleted"):
        client.purge_deleted_secret(name)
    poller.wait()
    client.purge_deleted_secret(name)


def test_lists_come_in_pages_of_at_most_25_without_values(simulator: Simulator, connect: Connect) -> None:
    client = connect()
    prefix = f"page-{uuid.uuid4().hex[:8]}"
    names = {f"{prefix}-{number:02}" for number in range(30)}
    for name in names:
        client.set_secret(name, "x")
    pages = [list(page) for page in client.list_properties_of_secrets().by_page()]
    assert max(len(page) for page in pages) == 25
    assert names <= {item.name for page in pages for item in page}
    for number in range(30):
        client.set_secret(f"{prefix}-00", str(number))
    versions = list(client.list_properties_of_secret_versions(f"{prefix}-00"))
    assert len({item.version for item in versions}) == 31


def test_what_does_not_fit_is_a_bad_parameter(connect: Connect) -> None:
    client = connect()
    client.set_secret(new_name(), "x" * 25_600, tags={str(n): "x" for n in range(15)})
    for name, value, tags in (
        (new_name(), "x" * 25_601, None),
        (new_name(), "x", {str(n): "x" for n in range(16)}),
        ("under_score", "x", None),
        ("x" * 128, "x", None),
    ):
        with pytest.raises(HttpResponseError) as caught:
            client.set_secret(name, value, tags=tags)
        assert caught.value.status_code == 400
        assert "BadParameter" in str(caught.value)


def test_a_disabled_secret_can_be_listed_but_not_read(connect: Connect) -> None:
    client, name = connect(), new_name()
    client.set_secret(name, "one", enabled=False)
    with pytest.raises(HttpResponseError, match="disabled secret") as caught:
        client.get_secret(name)
    assert caught.value.status_code == 403
    client.update_secret_properties(name, enabled=True)
    assert client.get_secret(name).value == "one"


def test_a_writer_cannot_read_and_a_reader_cannot_write(connect: Connect) -> None:
    writer, reader = connect(allowed={"set", "list"}), connect(allowed="Key Vault Secrets User")
    stranger, name = connect(allowed=()), new_name()
    writer.set_secret(name, "one")
    assert name in [item.name for item in writer.list_properties_of_secrets()]
    assert reader.get_secret(name).value == "one"
    calls: tuple[Callable[[], object], ...] = (
        lambda: writer.get_secret(name),
        lambda: reader.set_secret(name, "two"),
        lambda: stranger.get_secret(name),
    )
    for refused in calls:
        with pytest.raises(HttpResponseError) as caught:
            refused()
        assert caught.value.status_code == 403
        assert caught.value.error is not None
        assert caught.value.error.innererror == {"code": "ForbiddenByRbac"}


def test_another_tenants_application_is_not_let_in(simulator: Simulator, connect: Connect) -> None:
    other = list(simulator.world.tenants.values())[1]
    with pytest.raises(Exception, match=r"AKV10032|not found in the directory|not configured to acquire tokens"):
        connect(tenant=other).get_secret("anything")


def test_a_request_without_a_token_is_told_where_to_get_one(simulator: Simulator, home: Tenant) -> None:
    context = ssl.create_default_context(cafile=str(simulator.ca_file))
    with httpx.Client(base_url=simulator.url, verify=context) as http:
        answer = http.get("/secrets/x/?api-version=7.6")
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == (
            f'Bearer authorization="{simulator.url}/{home.id}", resource="https://vault.azure.net"'
        )
        assert answer.json()["error"]["message"].startswith("AKV10000:")
        token = simulator.issuer.issue(home.id, "app", KEY_VAULT, "subject")
        unversioned = http.get("/secrets/x/", headers={"Authorization": f"Bearer {token}"})
        assert (unversioned.status_code, unversioned.json()["error"]["code"]) == (400, "BadParameter")
        graph = simulator.issuer.issue(home.id, "app", "https://graph.microsoft.com", "subject")
        foreign = http.get("/secrets/x/?api-version=7.6", headers={"Authorization": f"Bearer {graph}"})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (401, "Unauthorized")


def test_a_throttled_request_succeeds_when_it_is_repeated(simulator: Simulator, connect: Connect, home: Tenant) -> None:
    client, name = connect(), new_name()
    client.set_secret(name, "one")
    simulator.world.faults[home.id, "keyvault.get"] = [Fault("throttle", times=2, options={"retry_after": 0})]
    assert client.get_secret(name).value == "one"
    statuses = [status for _, route, path, status in simulator.world.requests if name in path and "get" in route]
    assert statuses == [429, 429, 200]


def test_a_grant_may_name_one_secret(connect: Connect) -> None:
    client, name, other = connect(), new_name(), new_name()
    for each in (name, other):
        client.set_secret(each, "one")
    writer = connect(allowed={"*": {"set"}, name: "Key Vault Secrets User"})
    assert writer.get_secret(name).value == "one"
    writer.set_secret(other, "two")
    with pytest.raises(HttpResponseError) as caught:
        writer.get_secret(other)
    assert caught.value.status_code == 403


def test_purge_protection_keeps_a_deleted_secret_until_its_date(connect: Connect, home: Tenant) -> None:
    home.settings |= {"key_vault_purge_protection": True, "key_vault_retention_days": 7}
    client, name = connect(), new_name()
    client.set_secret(name, "one")
    poller = client.begin_delete_secret(name, _polling_interval=SOON)
    poller.wait()
    deleted = client.get_deleted_secret(name)
    assert deleted.properties.recovery_level == "CustomizedRecoverable"
    assert deleted.scheduled_purge_date is not None
    assert deleted.deleted_date is not None
    assert deleted.scheduled_purge_date - deleted.deleted_date == timedelta(days=7)
    with pytest.raises(HttpResponseError, match="purge protection is enabled") as caught:
        client.purge_deleted_secret(name)
    assert caught.value.status_code == 403
