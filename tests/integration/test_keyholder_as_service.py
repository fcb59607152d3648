"""The keyholder as a service of its own user, as `deploy/tenantry-keyholder.service` has it, and its locked memory."""

from __future__ import annotations

import os
import re
import resource
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
import pytest
from other_user import Asked, command
from unit import arguments

from crypto.credential import ServiceAccount
from crypto.stores import EVENT_KEY
from domain.events import CredentialReleased
from domain.ids import new_run_id
from domain.settings import Settings
from vault.client import open_released
from vault.keyholder import LOG
from vault.line import SOCKET

if TYPE_CHECKING:
    from tests.integration.conftest import House

SERVICE, RAY, STRANGER, SHARED = 65534, 65533, 65532, 65531
"""Users, and the group that the first two share."""
CAP_IPC_LOCK = 14
TICK_SECONDS = 0.01
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def kib(value: str) -> int:
    return int(value.removesuffix(" kB"))


def may_lock(capabilities: str) -> bool:
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    return unlimited or bool(int(capabilities, 16) >> CAP_IPC_LOCK & 1)


def test_its_memory_is_locked_where_that_is_allowed_and_it_says_whether(house: House) -> None:
    facts = status(house.keyholder().health().pid)
    allowed = may_lock(facts["CapEff"])
    assert (kib(facts["VmLck"]) > 0) == allowed
    assert f'"memory_locked": {str(allowed).lower()}' in (house.state / LOG).read_text()


@needs_root
def test_where_it_is_locked_no_memory_that_it_wrote_to_is_left_out(house: House) -> None:
    keyholder = house.keyholder()
    house.password_in(keyholder.release(house.request()))
    pid = keyholder.health().pid
    if not may_lock(status(pid)["CapEff"]):
        pytest.skip("root may not lock memory here")
    mappings = Path(f"/proc/{pid}/smaps").read_text().split("VmFlags:")
    flags = [flags.splitlines()[0].split() for flags in mappings[1:]]
    written = [int(re.findall(r"^Anonymous: +(\d+) kB", mapping, re.MULTILINE)[0]) for mapping in mappings[:-1]]
    assert sum(written) > 1000
    assert not [kib_ for kib_, flags_ in zip(written, flags, strict=True) if kib_ and "lo" not in flags_]


# under another user


def given_to(user: int, group: int, top: Path) -> None:
    """With all that is below, and nobody else gets in."""
    for path in [top, *top.rglob("*")]:
        os.chown(path, user, group, follow_symlinks=False)
    top.chmod(0o2770 if group == SHARED else 0o700)


def settings_of(state: Path, events: Path) -> Settings:
    return Settings(
        state=str(state),
        eventstore=f"sqlite://{events}",
        secrets=f"file://{state}/secrets",
        batches=f"file://{state}/batches",
        clouds={},
    )


@dataclass
class Service:
    """A keyholder that SERVICE runs in `state`, and RAY is served by. `house`: as RAY sees it."""

    house: House
    state: Path
    process: subprocess.Popen[bytes]

    def password(self) -> str:
        """As it is released to RAY for a run of its own."""
        request = self.house.request(run=new_run_id(datetime.now(UTC), secrets.randbits(32)))
        asked = Asked(self.house.settings, request)
        given = bytes.fromhex(done_as(RAY, "ask", given=msgspec.json.encode(asked)))
        where = {"tenant": request.tenant, "slot": request.slot, "activation": "a1"}
        opened = open_released(given, self.house.transit, run=request.run, epoch=1, **where)
        assert isinstance(opened, ServiceAccount)
        return opened.password


def done_as(user: int, *words: str, given: bytes = b"") -> str:
    """What a program says as this user, on standard error where it fails."""
    done = subprocess.run(command(user, SHARED, *words), input=given, capture_output=True, check=False)  # noqa: S603
    return (done.stderr if done.returncode else done.stdout).decode()


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory that other users get into: those of pytest are closed again by whichever run of it begins next."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def service(furnished: House, top: Path) -> Iterator[Service]:
    """Keys and secrets are the service's, the event store is shared, and RAY has the event key only."""
    state, shared, run, ray = (top / name for name in ("state", "shared", "run", "ray"))
    for name in ("keys", "secrets"):
        shutil.copytree(furnished.state / name, state / name)
    for directory in (shared, run, ray):
        directory.mkdir()
    events = shared / "events.db"
    shutil.copy(furnished.state / events.name, events)
    events.chmod(0o660)
    house = replace(furnished, settings=settings_of(ray, events), _open=[])
    house.secrets.put(EVENT_KEY, furnished.secrets.get(EVENT_KEY))
    (ray / SOCKET).symlink_to(run / SOCKET)
    given_to(SERVICE, SERVICE, state)
    given_to(RAY, SHARED, shared)
    given_to(SERVICE, SERVICE, run)
    given_to(RAY, RAY, ray)
    run.chmod(0o755)
    words = command(SERVICE, SHARED, "serve", *arguments(run / SOCKET, RAY))
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:  # noqa: S603 - our own
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(settings_of(state, events)))
        process.stdin.close()
        try:
            while not (state / LOG).exists() or '"started"' not in (state / LOG).read_text():
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(TICK_SECONDS)
            yield Service(house, state, process)
        finally:
            process.terminate()
    house.close()


@needs_root
def test_it_serves_the_user_that_it_is_told_and_no_other(service: Service) -> None:
    assert service.password() == service.house.password
    assert isinstance(service.house.found()[-1], CredentialReleased)
    elsewhere = msgspec.structs.replace(service.house.settings, state=str(service.state.parent / "run"))
    asked = msgspec.json.encode(Asked(elsewhere, service.house.request()))
    assert f"does not serve user {STRANGER}" in done_as(STRANGER, "ask", given=asked)


@needs_root
def test_it_has_nothing_of_root_and_its_keys_are_its_own(service: Service) -> None:
    facts = status(service.process.pid)
    assert facts["Uid"].split() == [str(SERVICE)] * 4
    assert (int(facts["CapEff"], 16), facts["NoNewPrivs"]) == (0, "1")
    assert (kib(facts["VmLck"]) > 0) == may_lock(facts["CapEff"])
    assert (service.state / LOG).stat().st_uid == SERVICE
    assert {user: may_read(user, service.state / "keys" / "passphrase") for user in (SERVICE, RAY, STRANGER)} == {
        SERVICE: True,
        RAY: False,
        STRANGER: False,
    }


def may_read(user: int, path: Path) -> bool:
    words = ["cat", str(path)]
    done = subprocess.run(words, user=user, group=user, extra_groups=[SHARED], capture_output=True, check=False)  # noqa: S603
    return done.returncode == 0


@needs_root
def test_it_is_found_through_a_link_and_never_started_from_there(service: Service) -> None:
    service.process.terminate()
    service.process.wait()
    asked = msgspec.json.encode(Asked(service.house.settings, service.house.request()))
    assert "KeyholderUnavailable" in done_as(RAY, "ask", given=asked)
    started = done_as(RAY, "serve", given=msgspec.json.encode(service.house.settings))
    assert "leads to a keyholder elsewhere" in started
