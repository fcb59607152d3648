"""During a collection and after it, no credential, key or token lies anywhere in plaintext but in memory."""

from __future__ import annotations

import base64
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from running import Running

from domain.events import BatchRecorded
from simulator.world import Tenant

MOST_BYTES = 256 << 20
HELD, HELD_SECONDS = "subscribed-skus", 3
"""The route on which no tenant gets on while its secrets are searched for, and the seconds that it is told to wait,
seven times at most."""
KINDS = ("app-certificate", "app-secret", "service-account")


def forms(secret: bytes) -> set[bytes]:
    """As it is, as UTF-16, in hex, and what base64 makes of its middle at each of the three places it may begin."""
    found = {secret, secret.decode("latin-1").encode("utf-16-le"), secret.hex().encode()}
    for shift in range(3):
        whole = base64.b64encode(b"\x00" * shift + secret)
        inner = whole[4:-4]
        found |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def files(directories: Iterable[Path], since: float) -> Iterator[Path]:
    """Regular files that were written since then."""
    for directory in directories:
        for parent, _, names in os.walk(directory):
            for name in names:
                path = Path(parent, name)
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode) and status.st_mtime >= since and status.st_size <= MOST_BYTES:
                    yield path


def leaks(paths: Iterable[Path], needles: set[bytes]) -> list[str]:
    said = []
    for path in paths:
        try:
            content = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        said += [str(path)] * any(needle in content for needle in needles)
    return said


class Search:
    """Looks for the secrets of some tenants wherever a process of ours may have left them."""

    def __init__(self, running: Running, tenants: list[Tenant], since: float) -> None:
        import ray

        self.running = running
        self.since = since
        issuer, tenant = running.estate.simulator.issuer, tenants[0]
        header = issuer.issue(tenant.id, "app", "audience", "subject").split(".")[0]
        keys = [running.data_key(tenant).to_secret().reveal() for tenant in tenants]
        self.needles = {form for secret in running.estate.planted for form in forms(secret.encode())}
        self.needles |= {form for key in keys for form in forms(key)}
        self.needles |= {f"{header}.".encode(), f"{header}.".encode("utf-16-le")}
        session = ray._private.worker._global_node.get_session_dir_path()
        self.places = [Path(running.estate.settings.state), Path(session), Path(tempfile.gettempdir())]

    def in_files(self) -> list[str]:
        return leaks(files(self.places, self.since), self.needles)

    def in_processes(self) -> list[str]:
        """In what any process of this user may read of ours: arguments and environment."""
        pids = self.running.pids()
        kinds = ("cmdline", "environ")
        said = []
        for name, pid in pids.items():
            if name == "keyholder":
                kinds = ("cmdline",)
            said += leaks([Path(f"/proc/{pid}/{kind}") for kind in kinds], self.needles)
        return said

    def in_events(self) -> list[str]:
        store, position, said = self.running.estate.state.store, 0, []
        while page := store.follow(position):
            for recorded in page:
                text = msgspec.json.encode(recorded.event)
                said += [recorded.stream] * any(needle in text for needle in self.needles)
            position = page[-1].position
        return said


@pytest.fixture(scope="module")
def searched(running: Running) -> dict[str, list[str]]:
    """What was found, by where and when."""
    since = time.time()
    tenants = [running.estate.add_tenant(80, kind, exchange_server=kind == KINDS[1]) for kind in KINDS]
    search = Search(running, tenants, since)
    position = running.position()
    for tenant in tenants:
        running.estate.fail(tenant, HELD, "throttle", times=None, retry_after=HELD_SECONDS)
    requested = running.request(tenants)
    running.system.work(until_idle=True)
    running.until(lambda recorded: isinstance(recorded.event, BatchRecorded), position)
    found = {"files, meanwhile": search.in_files(), "processes": search.in_processes()}
    assert {running.run(run).state for run in requested} <= {"requested", "started"}, "the work ended during the search"
    for tenant in tenants:
        del running.estate.simulator.world.faults[tenant.id, HELD]
    running.finish()
    outcomes = [one for run in requested for one in running.run(run).outcomes]
    assert {one.outcome for one in outcomes} == {"complete"}
    assert any(one.dataset.startswith("onprem.") for one in outcomes)
    return found | {"files, afterwards": search.in_files(), "events": search.in_events()}


@pytest.mark.parametrize("where", ["files, meanwhile", "processes", "files, afterwards", "events"])
def test_no_secret_is_found(searched: dict[str, list[str]], where: str) -> None:
    assert searched[where] == []


@pytest.mark.parametrize("wrapped", [bytes, lambda text: text.decode().encode("utf-16-le"), base64.b64encode])
def test_the_search_finds_what_is_there(tmp_path: Path, wrapped: type[bytes]) -> None:
    secret = base64.b64encode(os.urandom(24))
    (tmp_path / "log").write_bytes(b'{"event": "..."}' + wrapped(b"x" + secret + b"yz") + b"\n")

    assert leaks(files([tmp_path], 0), forms(secret)) == [str(tmp_path / "log")]
