"""Attacks by code that runs in the cluster, by other users of the machine, and by who may write the secret store.

A Ray actor is no boundary: code that has the cluster's token runs in any of them. What it finds there is the point.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from memory import Forms, forms_of_key, forms_of_text, found_in_process
from running import Running

from actors.system import NAMESPACE
from cli.sealing import make
from crypto import datakey
from crypto.credential import ServiceAccount
from crypto.stores import SecretStore, credential_name, data_key_name
from crypto.transit import TransitKey
from domain.errors import SealBroken
from domain.events import AnyEvent, CredentialReleased, ReleaseDenied, RunCancelled, RunResumed, RunStarted
from domain.ids import ENTRA, RunId, credential_stream, new_run_id, tenant_id
from simulator.world import Tenant
from vault.client import open_released
from vault.line import SOCKET, address
from vault.messages import MAX_BODY, Hello, Release, encode
from vault.policy import REASONS, RELEASES_PER_ACTIVATION, VERIFICATION

NOBODY = 65534
KEYS = {"RSAPrivateKey", "LocalKey", "Keyring", "FileCustody", "Holding"}
"""What the keyholder's objects are called, and nobody else's are."""
ATTACK = """
import gc, json
from domain.errors import TenantryError
from vault.client import connect
from vault.messages import Release

core = next(one for one in gc.get_objects() if type(one).__name__ == "VaultCore")
found = {"kinds": sorted({type(one).__name__ for one in gc.get_objects()}), "sealed": [], "refused": ""}
try:
    with connect(core._settings) as keyholder:
        for _ in range(times):
            found["sealed"].append(keyholder.release(Release(**request)).hex())
except TenantryError as error:
    found["refused"] = str(error)
with open(path, "w") as file:
    json.dump(found, file)
"""
INTRUDER = """
import gc, json, ray, sys
from vault.messages import Release

address, request = sys.argv[1], json.loads(sys.argv[2])
request["transit_key"] = bytes.fromhex(request["transit_key"])
ray.init(address=address, namespace="elsewhere", log_to_driver=False, configure_logging=False, logging_level="ERROR")
vault = ray.get_actor("vault", namespace="tenantry")
kinds = ray.get(vault.__ray_call__.remote(lambda _: sorted({type(one).__name__ for one in gc.get_objects()})))
try:
    said = ray.get(vault.release.remote(Release(**request))).hex()
except Exception as error:
    said = str(error.cause)
print(json.dumps({"kinds": kinds, "said": said}))
"""


class Code:
    """An argument that runs this where it is unpickled."""

    def __init__(self, source: str, **values: Any) -> None:
        self.source = source
        self.values = values

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.source, self.values)


@pytest.fixture(scope="module")
def victim(running: Running) -> Tenant:
    return running.estate.add_tenant(10, "service-account")


@pytest.fixture(scope="module")
def other(running: Running) -> Tenant:
    return running.estate.add_tenant(10, "app-secret")


@pytest.fixture
def requested(running: Running, victim: Tenant) -> Iterator[RunId]:
    """A run of the victim that nobody has started."""
    (run,) = running.request([victim], ["entra.users"])
    yield run
    running.append(run, RunCancelled(reason="the attack is over"))


@pytest.fixture
def started(running: Running, requested: RunId) -> RunId:
    """The same, carried out by activation `a1`."""
    running.append(requested, RunStarted(activation="a1", epoch=1))
    return requested


@pytest.fixture(scope="module")
def keys(running: Running) -> dict[str, Forms]:
    """The vault's keys and their passphrase, to search for."""
    directory = Path(running.estate.settings.state) / "keys"
    passphrase = (directory / "passphrase").read_text().strip()
    found: dict[str, Forms] = {"passphrase": forms_of_text(passphrase)}
    for path in directory.glob("*.pem"):
        found[path.name] = forms_of_key(load_pem_private_key(path.read_bytes(), passphrase.encode()))  # type: ignore[arg-type]
    return found


def asked(tenant: Tenant, run: str, transit: TransitKey) -> dict[str, Any]:
    """What a tenant actor would ask for `a1`."""
    return {
        "run": run,
        "tenant": tenant.id,
        "slot": ENTRA,
        "activation": "a1",
        "epoch": 1,
        "purpose": "graph",
        "transit_key": transit.public,
    }


def attacked(running: Running, directory: Path, request: dict[str, Any], times: int = 1) -> dict[str, Any]:
    """What code found that was run in the vault actor by an argument of a call."""
    import ray

    path = directory / "found"
    with pytest.raises(ray.exceptions.RayTaskError):
        ray.get(actor("vault").release.remote(Code(ATTACK, request=request, path=str(path), times=times)))
    return dict(json.loads(path.read_text()))


def actor(name: str) -> Any:
    import ray

    return ray.get_actor(name, namespace=NAMESPACE)


def last_of(running: Running, tenant: Tenant) -> AnyEvent:
    return running.estate.state.store.read(credential_stream(tenant_id(tenant.id), ENTRA))[-1].event


# in the cluster


def test_code_called_in_the_vault_actor_finds_no_key(running: Running, keys: dict[str, Forms]) -> None:
    import ray

    def kinds(self: Any) -> list[str]:
        import gc

        return sorted({type(one).__name__ for one in gc.get_objects()})

    pids = running.system.pids()
    for name in pids:
        assert not KEYS & set(ray.get(actor(name).__ray_call__.remote(kinds))), name
    assert found_in_process(pids["vault"], keys) == set()


def test_code_in_an_argument_finds_no_key_and_is_refused_without_a_started_run(
    running: Running, victim: Tenant, requested: RunId, keys: dict[str, Forms], tmp_path: Path
) -> None:
    found = attacked(running, tmp_path, asked(victim, requested, TransitKey.generate()))

    assert "VaultCore" in found["kinds"]
    assert not KEYS & set(found["kinds"])
    assert found["sealed"] == []
    assert REASONS["run-not-started"] in found["refused"]
    assert last_of(running, victim) == ReleaseDenied(run=requested, activation="a1", why="run-not-started")
    assert found_in_process(running.system.pids()["vault"], keys) == set()


def test_code_in_the_vault_actor_can_have_a_credential_as_a_verification_on_record_with_its_user(
    running: Running, other: Tenant, tmp_path: Path
) -> None:
    """It has the user of the vault actor, so it speaks to the keyholder as any command of that user does."""
    import ray

    transit, verification = TransitKey.generate(), new_run_id(datetime.now(UTC), 4711)
    request = asked(other, verification, transit) | {"activation": VERIFICATION, "epoch": 0, "operator": "mallory"}
    before = running.position()
    with pytest.raises(ray.exceptions.RayTaskError, match="serves runs"):
        ray.get(actor("vault").release.remote(Release(**request)))
    assert not running.estate.state.store.follow(before), "the actor itself does not pass it on"

    found = attacked(running, tmp_path, request)

    assert open_released(
        bytes.fromhex(found["sealed"][0]),
        transit,
        run=verification,
        tenant=other.id,
        slot=ENTRA,
        activation=VERIFICATION,
        epoch=0,
    )
    (recorded,) = running.estate.state.store.follow(before)
    assert isinstance(recorded.event, CredentialReleased)
    assert (recorded.event.run, recorded.event.operator) == (verification, "mallory")
    assert (recorded.actor, recorded.cause) == ("operator:mallory", f"uid:{os.getuid()}")


def test_code_that_knows_an_active_run_gets_its_credential_on_record_a_few_times_and_for_itself_alone(
    running: Running, victim: Tenant, started: RunId, tmp_path: Path
) -> None:
    transit = TransitKey.generate()
    before = running.position()

    found = attacked(running, tmp_path, asked(victim, started, transit), times=RELEASES_PER_ACTIVATION + 1)

    assert REASONS["too-many-releases"] in found["refused"]
    events = [one.event for one in running.estate.state.store.follow(before)]
    assert len([one for one in events if isinstance(one, CredentialReleased)]) == RELEASES_PER_ACTIVATION
    assert {one.transit_key for one in events if isinstance(one, CredentialReleased)} == {
        hashlib.sha256(transit.public).hexdigest()
    }
    sealed = bytes.fromhex(found["sealed"][0])
    context: dict[str, Any] = {"run": started, "tenant": victim.id, "slot": ENTRA, "activation": "a1", "epoch": 1}
    for key, changed in ((transit, {"activation": "a2"}), (transit, {"epoch": 2}), (TransitKey.generate(), {})):
        with pytest.raises(SealBroken):
            open_released(sealed, key, **context | changed)
    assert open_released(sealed, transit, **context)


def test_the_actor_of_another_tenant_is_denied_on_record(
    running: Running, victim: Tenant, other: Tenant, started: RunId
) -> None:
    import ray

    request = Release(**asked(other, started, TransitKey.generate()))

    def ask(self: Any) -> Any:
        return self._core._vault._handle.release.remote(request)

    with pytest.raises(ray.exceptions.RayTaskError) as denied:
        ray.get(ray.get(actor("tenant-0").__ray_call__.remote(ask)))

    assert REASONS["run-of-another-tenant"] in str(denied.value.cause)
    assert last_of(running, other) == ReleaseDenied(run=started, activation="a1", why="run-of-another-tenant")


def test_a_former_epoch_is_denied_on_record(running: Running, victim: Tenant, started: RunId) -> None:
    import ray

    running.append(started, RunResumed(activation="a2", epoch=2))

    with pytest.raises(ray.exceptions.RayTaskError):
        ray.get(actor("vault").release.remote(Release(**asked(victim, started, TransitKey.generate()))))

    assert last_of(running, victim) == ReleaseDenied(run=started, activation="a1", why="stale-epoch")


def test_where_one_user_runs_everything_code_in_the_cluster_can_open_the_key_file(running: Running) -> None:
    """The embedded default has this limit; `docs/threat-model.md` says what lifts it."""
    import ray

    def opened(self: Any) -> int:
        from pathlib import Path

        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        directory = Path(self._core._settings.state) / "keys"
        passphrase = (directory / "passphrase").read_bytes().strip()
        return int(load_pem_private_key(next(directory.glob("*.pem")).read_bytes(), passphrase).key_size)

    assert ray.get(actor("vault").__ray_call__.remote(opened)) == 3072


def intruded(request: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
    import ray

    told = json.dumps(request | {"transit_key": request["transit_key"].hex()})
    return subprocess.run(  # noqa: S603 - our own interpreter
        (sys.executable, "-I", "-c", INTRUDER, ray.get_runtime_context().gcs_address, told),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_driver_in_another_namespace_finds_no_key_and_is_refused(
    running: Running, victim: Tenant, requested: RunId
) -> None:
    said = intruded(asked(victim, requested, TransitKey.generate()))

    found = json.loads(said.stdout)
    assert not KEYS & set(found["kinds"])
    assert REASONS["run-not-started"] in found["said"]
    assert last_of(running, victim) == ReleaseDenied(run=requested, activation="a1", why="run-not-started")


def test_a_driver_without_the_cluster_s_token_does_not_get_in(
    running: Running, victim: Tenant, requested: RunId
) -> None:
    token = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_NUM_REDIS_GET_RETRIES": "1"}
    said = intruded(asked(victim, requested, TransitKey.generate()), **token)

    assert said.returncode != 0
    assert said.stdout == ""
    assert "Authentication" in said.stderr


# on the machine


def endless(running: Running) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(20)
    with address(Path(running.estate.settings.state) / SOCKET) as place:
        connection.connect(place)
    connection.sendall(encode(Hello()))
    return connection


def test_a_message_without_end_is_cut_off_and_others_are_served_meanwhile(running: Running) -> None:
    keyholder = running.estate.state.keyholder
    with endless(running) as connection:
        connection.sendall(MAX_BODY.to_bytes(4) + bytes(MAX_BODY - 1))
        assert keyholder.health().keys
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - at whichever of the sends
            for _ in range(1000):
                connection.sendall(bytes(MAX_BODY))
    assert keyholder.health().keys


AS_ANOTHER = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setgid(65534)
os.setuid(65534)
try:
    socket.socket(socket.AF_UNIX).connect("keyholder.sock")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_does_not_reach_the_socket(running: Running) -> None:
    running.estate.state.keyholder.health()
    said = subprocess.run(  # noqa: S603 - our own interpreter
        (sys.executable, "-I", "-c", AS_ANOTHER, running.estate.settings.state),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.strip() == "PermissionError", said.stderr


AS_THE_SAME = """
import ctypes, json, os, shutil, signal, sys
import vault.keyholder as keyholder
from vault.client import owner_process
from domain.settings import Settings

state = sys.argv[1]
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(4, 1, 0, 0, 0)
settings = Settings(state=state, eventstore="", secrets="", batches="", clouds={})

def refused(call):
    try:
        call()
    except OSError as error:
        return type(error).__name__
    return None

def attached(pid):
    if libc.ptrace(16, pid, 0, 0):
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, 0)
    libc.ptrace(17, pid, 0, 0)

def attempts(pid):
    found = {name: refused(lambda: open(f"/proc/{pid}/{name}", "rb").close()) for name in ("mem", "environ")}
    return found | {"ptrace": refused(lambda: attached(pid))}

until, hold = os.pipe()
control = os.fork()
if control == 0:
    os.close(hold)
    os.read(until, 1)
    os._exit(0)
found = {"control": attempts(control)}
os.close(hold)
os.waitpid(control, 0)
starter = os.fork()
if starter == 0:
    told, tell = os.pipe()
    import msgspec
    os.write(tell, msgspec.json.encode(settings))
    os.close(tell)
    os.dup2(told, 0)
    sys.argv = ["keyholder", "--detach"]
    os._exit(keyholder.main())
os.waitpid(starter, 0)
pid = owner_process(settings)
found["keyholder"] = attempts(pid)
os.kill(pid, signal.SIGTERM)
print(json.dumps(found))
"""


def test_another_process_of_the_same_user_cannot_look_into_the_keyholder(tmp_path: Path) -> None:
    """As root everything can be looked into, so everything here is done as a user without rights."""
    state = tmp_path / "state"
    state.mkdir(0o700)
    if os.getuid() == 0:
        for directory in (tmp_path, *tmp_path.parents[:2]):
            directory.chmod(0o755)
        os.chown(state, NOBODY, NOBODY)
    said = subprocess.run(  # noqa: S603 - our own interpreter
        (sys.executable, "-I", "-c", AS_THE_SAME, str(state)), capture_output=True, text=True, check=False
    )
    found = json.loads(said.stdout or said.stderr)
    assert found["control"] == dict.fromkeys(("mem", "environ", "ptrace"))
    assert found["keyholder"] == dict.fromkeys(("mem", "environ", "ptrace"), "PermissionError")


# in the secret store


@pytest.fixture
def store(running: Running, victim: Tenant) -> Iterator[SecretStore]:
    """The secret store, for who may write it. What the victim has there is put back."""
    store = running.estate.state.secrets
    names = (credential_name(tenant_id(victim.id), ENTRA), data_key_name(tenant_id(victim.id)))
    genuine = {name: store.get(name) for name in names}
    yield store
    for name, value in genuine.items():
        store.put(name, value)


def of_another_tenant(running: Running, victim: Tenant, other: Tenant) -> bytes:
    return running.estate.state.secrets.get(credential_name(tenant_id(other.id), ENTRA))


def of_the_attacker(running: Running, victim: Tenant, other: Tenant) -> bytes:
    """Anybody may seal to the public key."""
    account = ServiceAccount(username=f"eve@{victim.domain}", password=secrets.token_urlsafe(24))
    return make(tenant_id(victim.id), ENTRA, running.estate.state.public_key(), account).envelope.encode()


def that_was_replaced(running: Running, victim: Tenant, other: Tenant) -> bytes:
    former = running.estate.state.secrets.get(credential_name(tenant_id(victim.id), ENTRA))
    running.estate.set_credential(victim, running.estate.new_credential(victim, "app-secret"))
    return former


@pytest.mark.parametrize("envelope", [of_another_tenant, of_the_attacker])
def test_a_planted_envelope_is_refused_on_record_and_nothing_is_collected(
    running: Running,
    victim: Tenant,
    other: Tenant,
    store: SecretStore,
    envelope: Callable[[Running, Tenant, Tenant], bytes],
) -> None:
    store.put(credential_name(tenant_id(victim.id), ENTRA), envelope(running, victim, other))

    refused_on_record(running, victim, "envelope-exchanged")


def test_a_credential_that_was_replaced_does_not_come_back(running: Running, other: Tenant) -> None:
    tenant = running.estate.add_tenant(10, "app-secret")
    former = that_was_replaced(running, tenant, other)
    running.estate.state.secrets.put(credential_name(tenant_id(tenant.id), ENTRA), former)

    refused_on_record(running, tenant, "envelope-exchanged")


def refused_on_record(running: Running, tenant: Tenant, why: str) -> None:
    (run,) = running.collect(tenant, names=["entra.organization"])
    assert run.state == "failed"
    assert REASONS[why] in run.detail
    denied = last_of(running, tenant)
    assert isinstance(denied, ReleaseDenied)
    assert (denied.run, denied.why) == (run.id, why)


def test_a_planted_data_key_seals_nothing(running: Running, victim: Tenant, store: SecretStore) -> None:
    planted = datakey.wrap(datakey.new_data_key(), tenant=tenant_id(victim.id), key=running.estate.state.public_key())
    store.put(data_key_name(tenant_id(victim.id)), planted.encode())

    (run,) = running.collect(victim, names=["entra.organization"])

    assert {outcome.outcome for outcome in run.outcomes} != {"complete"}
    assert REASONS["data-key-exchanged"] in str(run.outcomes)
