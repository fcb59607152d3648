"""In the memory of a running system there is one process with the vault's key, and one for each tenant's credential.

The driver is a process of its own: the credentials are made by this one, which is not searched.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import folds
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from estate import Estate
from memory import Forms, Found, descendants, forms_of, forms_of_key, forms_of_text, found_in_files, found_in_process

from actors.plan import datasets_for
from cli.state import stop_keyholder
from collectors.catalog import load_catalog
from crypto.credential import Payload
from domain.events import RunRequested
from domain.ids import ENTRA, RunId, Slot, new_run_id, run_stream
from simulator.server import Simulator
from simulator.world import Fault, Tenant, World
from vault.client import owner_process

KINDS = ("app-certificate", "app-secret", "service-account")
SERVER = "exchange-server account"
VAULT_KEY = "vault key"
PASSPHRASE = "passphrase"
KEYHOLDER = "keyholder"
HELD, PASSED = "users-delta", "psrp.get-receiveconnector"
"""The route on which every tenant is held, and the one that shows that an Exchange Server was asked."""
WAIT_SECONDS = 60.0

DRIVER = """
import json, logging, msgspec, sys
from actors.system import System
from domain.settings import Settings

settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)

def tell_everything(self):
    logging.basicConfig(filename=f"{settings.state}/logs/everything.log", level=logging.DEBUG, force=True)
    logging.getLogger("tenantry").setLevel(logging.DEBUG)
    logging.getLogger("tenantry").propagate = True

with System(settings) as system:
    import ray
    for name in system.pids():
        ray.get(ray.get_actor(name).__ray_call__.remote(tell_everything))
    print(json.dumps(system.pids()), flush=True)
    for line in sys.stdin:
        system.work(until_idle=True)
        print(system.ended(60), flush=True)
"""


@dataclass(slots=True)
class Gate(World):
    """Holds tenants on a route until all have come and it is opened; a fault of kind `gate` names a place to come to.

    Whoever comes before the last is throttled, and comes again; at the last one the whole service stands still. It has
    given up when it was not opened for a minute.
    """

    expected: int = 0
    come: set[tuple[str, str]] = field(default_factory=set)
    all_here: Event = field(default_factory=Event)
    opened: Event = field(default_factory=Event)
    gave_up: bool = False

    def take_fault(self, tenant: str, route: str, kinds: Collection[str]) -> Fault | None:
        fault = World.take_fault(self, tenant, route, {*kinds, "gate"})
        if fault is None or fault.kind != "gate":
            return fault
        self.come.add((tenant, route))
        if len(self.come) < self.expected:
            return Fault("throttle", options={"retry_after": 2}) if route == HELD else None
        self.all_here.set()
        self.gave_up = not self.opened.wait(WAIT_SECONDS)
        return None


@dataclass
class Planted(Estate):
    """Remembers what was sealed, by tenant and slot."""

    credentials: dict[tuple[str, Slot], Payload] = field(default_factory=dict, repr=False)

    def set_credential(self, tenant: Tenant, credential: Payload, slot: Slot = ENTRA) -> None:
        self.credentials[tenant.id, slot] = credential
        super().set_credential(tenant, credential, slot)


@dataclass
class Scene:
    """What was found, by the name of the process or file, while all tenants were held and after their runs."""

    meanwhile: dict[str, Found]
    afterwards: dict[str, Found]
    files: dict[Path, Found]
    logged: int
    outcomes: set[str | None]

    def holders(self, found: Mapping[str, Found], secret: str) -> set[str]:
        return {name for name, here in found.items() if secret in {of for of, _ in here}}


@contextmanager
def driven(estate: Estate, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver with directories of its own for everything temporary, and Ray's own processes at debug level."""
    places = {"RAY_TMPDIR": str(directory), "TMPDIR": str(directory), "RAY_BACKEND_LOG_LEVEL": "debug"}
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        (sys.executable, "-I", "-c", DRIVER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **places},
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.stdin.close()  # type: ignore[union-attr]
            process.wait(WAIT_SECONDS)


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def searched(driver: int, names: Mapping[int, str], wanted: Mapping[str, Forms]) -> dict[str, Found]:
    """Each process by its name or command line. Only root may look into the keyholder."""
    processes = {pid: f"{command} {pid}" for pid, command in descendants(driver).items()} | dict(names)
    return {
        name: found_in_process(pid, wanted) for pid, name in processes.items() if name != KEYHOLDER or os.getuid() == 0
    }


def wanted_in(estate: Planted) -> dict[str, Forms]:
    """What is searched for, by name."""
    keys = Path(estate.settings.state) / "keys"
    passphrase = (keys / "passphrase").read_text().strip()
    private = load_pem_private_key(next(keys.glob("*.pem")).read_bytes(), passphrase.encode())
    found: dict[str, Forms] = {VAULT_KEY: forms_of_key(private), PASSPHRASE: forms_of_text(passphrase)}  # type: ignore[arg-type]
    for kind, tenant in zip(KINDS, estate.tenants, strict=True):
        found[kind] = forms_of(estate.credentials[tenant.id, ENTRA])
    return found | {SERVER: forms_of(next(one for (_, slot), one in estate.credentials.items() if slot != ENTRA))}


def requested(estate: Estate) -> list[RunId]:
    store, catalog, found = estate.state.store, load_catalog(), []
    for tenant in (estate.state.tenant(one.id) for one in estate.tenants):
        run = new_run_id(datetime.now(UTC), secrets.randbits(32))
        event = RunRequested(run=run, tenant=tenant.id, datasets=datasets_for(tenant, catalog, ()), full=True)
        store.append(run_stream(run), 0, [event], at=datetime.now(UTC), actor="operator:test", cause=run)
        found.append(run)
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("memory")
    temporary = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # not below the other: Ray's sockets need a short path
    gate = Gate()
    with Simulator(gate) as simulator:
        estate = Planted(simulator, directory / "state", {"tenant_actors": len(KINDS)})
        for kind in KINDS:
            tenant = estate.add_tenant(20, kind, exchange_server=kind == "app-secret")
            estate.fail(tenant, HELD, "gate", times=None)
            if tenant.exchange_server:
                estate.fail(tenant, PASSED, "gate", times=None)
        gate.expected = len(KINDS) + 1
        wanted = wanted_in(estate)
        with driven(estate, temporary) as driver:
            say(driver, msgspec.json.encode(estate.settings).decode())
            names = {pid: name for name, pid in json.loads(heard(driver)).items()}
            started = requested(estate)
            say(driver, "work")
            assert gate.all_here.wait(WAIT_SECONDS), gate.come
            names |= {pid: KEYHOLDER for pid in [owner_process(estate.settings)] if pid is not None}
            meanwhile = searched(driver.pid, names, wanted)
            files = found_in_files((directory, temporary), wanted)
            assert not gate.gave_up, "the search took so long that the tenants went on"
            gate.opened.set()
            assert heard(driver) == "True"
            afterwards = searched(driver.pid, names, wanted)
        files |= found_in_files((directory, temporary), wanted)
        ended = [folds.run(recorded.event for recorded in estate.state.store.read(run_stream(run))) for run in started]
        yield Scene(
            meanwhile,
            afterwards,
            files,
            (Path(estate.settings.state) / "logs" / "everything.log").stat().st_size,
            {outcome.outcome for run in ended if run for outcome in run.outcomes},
        )
        estate.state.keyholder.close()
        stop_keyholder(estate.settings)
        estate.state.store.close()
    shutil.rmtree(temporary)


def test_the_search_sees_every_process_and_every_run_ended_well(scene: Scene) -> None:
    everybody = " ".join(scene.meanwhile)
    for part in ("gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent", "vault", "supervisor", "graph-0"):
        assert part in everybody
    assert scene.logged > 0
    assert scene.outcomes == {"complete"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_credential_is_in_the_tenant_actor_that_uses_it_and_in_no_other_process(scene: Scene, kind: str) -> None:
    holders = scene.holders(scene.meanwhile, kind) - {KEYHOLDER}

    assert len(holders) == 1
    (holder,) = holders
    assert holder.startswith("tenant-")
    assert {holder} not in [scene.holders(scene.meanwhile, other) - {KEYHOLDER} for other in KINDS if other != kind]


def test_an_exchange_server_account_is_in_its_tenant_actor_and_the_collector_that_signs_in_with_it(
    scene: Scene,
) -> None:
    """WSMan takes a user name and a password, so here more than a token travels, sealed."""
    holders = scene.holders(scene.meanwhile, SERVER) - {KEYHOLDER}

    assert holders == {"powershell-0"} | (scene.holders(scene.meanwhile, "app-secret") - {KEYHOLDER})


@pytest.mark.parametrize("secret", [*KINDS, SERVER])
def test_after_the_run_no_process_but_the_keyholder_remembers_a_credential(scene: Scene, secret: str) -> None:
    assert scene.holders(scene.afterwards, secret) <= {KEYHOLDER}


@pytest.mark.parametrize("secret", [VAULT_KEY, PASSPHRASE])
def test_the_vault_s_private_key_and_its_passphrase_are_in_no_process_but_the_keyholder(
    scene: Scene, secret: str
) -> None:
    for found in (scene.meanwhile, scene.afterwards):
        assert scene.holders(found, secret) <= {KEYHOLDER}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can look into the keyholder")
def test_the_search_finds_the_vault_s_key_where_it_is(scene: Scene) -> None:
    assert scene.holders(scene.meanwhile, VAULT_KEY) == {KEYHOLDER}


def test_no_file_holds_a_credential_or_the_vault_s_key_and_one_holds_its_passphrase(scene: Scene) -> None:
    assert {path.name: {secret for secret, _ in found} for path, found in scene.files.items()} == {
        "passphrase": {PASSPHRASE}
    }
