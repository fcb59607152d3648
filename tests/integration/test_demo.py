"""The demo as a newcomer runs it, serving on at its end until the simulator has told its truth, and the other commands
on the state directory that it leaves."""

from __future__ import annotations

import json
import os
import pty
import random
import select
import shutil
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from desk import TENANTRY, environment, said_until

from cli.config import load
from cli.main import main
from cli.simulated import SimulatorProcess
from cli.state import stop_keyholder
from domain.settings import Cloud
from query.tables import table_of

TENANTS, USERS = 5, 30
SECTIONS = (
    "A simulated Microsoft 365 at https://localhost:",
    "Tenants registered, credentials sealed to the vault's public key",
    "First collection: everything",
    "Second collection: only what changed",
    "What is missing, why, and what to do",
    "Rows collected, and rows there are in the simulated Microsoft 365",
    "Every use of the credential of",
    "as it was before the second collection",
    "The log proves itself",
    "The simulator serves on. Ctrl-C stops it.",
    "Go on in the same state directory:",
)


@dataclass
class Ran:
    """What `tenantry demo` said, and where."""

    directory: Path
    code: int
    out: str
    err: str
    users: dict[str, int]
    """How many there are of each tenant, as the simulator tells when the demo is over."""

    @property
    def state(self) -> Path:
        return self.directory / ".tenantry-demo"

    def counts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.state / "demo.json").read_text())
        return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    directory = tmp_path_factory.mktemp("newcomer")
    serving = subprocess.Popen(  # noqa: S603 - our own command
        [TENANTRY, "demo", "--tenants", str(TENANTS), "--users", str(USERS), "--serve"],
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said = said_until(serving, b"The simulator serves on. Ctrl-C stops it.")
    settings = load(str(directory / ".tenantry-demo"), None, {}, directory).settings
    users = users_in(settings.clouds["simulator"])
    serving.terminate()
    more, err = serving.communicate(timeout=60)
    yield Ran(directory, serving.returncode, (said + more).decode(), err.decode(), users)
    stop_keyholder(settings)


def users_in(cloud: Cloud) -> dict[str, int]:
    trusted = ssl.create_default_context(cafile=cloud.ca_bundle)
    with httpx.Client(base_url=f"{cloud.graph}/_simulator", verify=trusted) as client:
        tenants = [one["id"] for one in client.get("/tenants").raise_for_status().json()]
        return {one: client.get(f"/truth/{one}/users").raise_for_status().json()["rows"] for one in tenants}


def asked(demo: Ran, capsys: pytest.CaptureFixture[str], *words: str, state: Path | None = None) -> tuple[int, Any]:
    """Exit code and JSON of a command on the demo's state directory that tells nothing else."""
    code, found, told = answered(demo, capsys, *words, state=state)
    assert told == ""
    return code, found


def answered(
    demo: Ran, capsys: pytest.CaptureFixture[str], *words: str, state: Path | None = None
) -> tuple[int, Any, str]:
    """Exit code, JSON, and what stands on standard error."""
    capsys.readouterr()
    code = main([*words, "--state", str(state or demo.state), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def test_the_demo_shows_everything_and_ends_well(demo: Ran) -> None:
    assert (demo.code, demo.err) == (0, "")
    places = [demo.out.find(section) for section in SECTIONS]
    assert -1 not in places
    assert places == sorted(places)
    assert "AADSTS7000222" in demo.out
    assert "AADSTS50076" in demo.out
    assert "verified" in demo.out


def test_what_the_demo_collected_is_what_there_is(demo: Ran) -> None:
    counts = demo.counts()
    assert len(counts) > 8
    assert all(one["collected"] == one["truth"] > 0 for one in counts), counts


def test_no_secret_file_of_the_simulator_is_left(demo: Ran) -> None:
    assert not (demo.state / "simulator" / "credentials").exists()


def test_the_runs_are_listed(demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    code, runs = asked(demo, capsys, "run", "list")
    assert code == 0
    assert len(runs) == 2 * TENANTS
    assert {one["state"] for one in runs} == {"finished", "failed"}
    for run in runs:
        assert {"run", "tenant", "state", "requested", "started", "finished", "datasets"} <= run.keys()
        for one in run["datasets"]:
            assert {"dataset", "outcome", "reason", "rows", "requests", "seconds"} <= one.keys()
        complete = all(one["outcome"] == "complete" for one in run["datasets"])
        assert complete == (run["state"] == "finished")


def test_sql_counts_what_there_is(demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    _, runs = asked(demo, capsys, "run", "list")
    finished = {one["tenant"] for one in runs if one["state"] == "finished"}
    parts = [
        f"select '{one['dataset']}' as dataset, count(*) as rows from {table_of(one['dataset'])}"  # noqa: S608 - our names
        for one in demo.counts()
    ]
    words = [option for tenant in sorted(finished) for option in ("--tenant", tenant)]
    code, rows = asked(demo, capsys, "data", "sql", " union all ".join(parts), *words)
    assert code == 0
    assert {one["dataset"]: one["rows"] for one in rows} == {one["dataset"]: one["truth"] for one in demo.counts()}


def test_the_users_of_every_tenant_that_could_be_collected_are_those_the_simulator_has(
    demo: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    _, runs = asked(demo, capsys, "run", "list")
    there = sum(demo.users[one] for one in {run["tenant"] for run in runs if run["state"] == "finished"})

    code, rows, told = answered(demo, capsys, "data", "sql", "select count(*) from entra_users")

    assert (code, rows) == (3, [{"count_star()": there}])
    assert "Coho Winery" in told
    assert "City Power & Light" in told
    assert there > (TENANTS - 2) * USERS / 2


def test_every_credential_is_released_on_record_before_it_is_used(
    demo: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    _, everything = asked(demo, capsys, "audit", "log")
    _, runs = asked(demo, capsys, "run", "list")
    checked = 0
    for tenant in {one["tenant"] for one in runs}:
        code, trail = asked(demo, capsys, "audit", "log", "--credential", tenant)
        assert code == 0
        assert {one["tenant"] for one in trail} == {tenant}
        for run in (one["run"] for one in runs if one["tenant"] == tenant):
            starts = [e["position"] for e in everything if e["run"] == run and e["event"] == "collection-started/1"]
            if starts:
                released = [e for e in trail if e["event"] == "credential-released/1" and e["run"] == run]
                assert released
                assert released[0]["position"] < min(starts)
                checked += 1
    assert checked == 2 * (TENANTS - 2)


def test_the_events_of_a_run_name_its_tenant(demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    _, runs = asked(demo, capsys, "run", "list")
    _, events = asked(demo, capsys, "audit", "log", "--tenant", runs[0]["tenant"])
    kinds = {one["event"] for one in events if one["run"] == runs[0]["run"]}
    assert {"run-requested/1", "run-started/1", "collection-started/1", "run-finished/1"} <= kinds or (
        "run-failed/1" in kinds
    )
    members = {"position", "at", "stream", "version", "event", "actor", "tenant", "run", "data"}
    assert all(members <= one.keys() for one in events)


def test_the_past_is_as_it_was(demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    _, events = asked(demo, capsys, "audit", "log")
    first = next(one for one in events if one["event"] == "run-requested/1")
    _, then = asked(demo, capsys, "audit", "replay", "--as-of", str(first["position"]))
    assert [one["state"] for one in then["runs"]] == ["requested"]
    assert len(then["fleet"]) == TENANTS
    for point in (first["at"], str(first["position"])):
        capsys.readouterr()
        words = ["data", "sql", "select * from entra_users", "--as-of", point, "--state", str(demo.state), "--json"]
        assert main(words) == 3
        out, err = capsys.readouterr()
        assert json.loads(out) == []
        assert json.loads(err)["why"].count("It was not collected by then.") == TENANTS


def test_tenants_that_could_not_be_collected_are_named_beside_the_answer(
    demo: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    code = main(["data", "sql", "select count(*) n from entra_users", "--state", str(demo.state), "--json"])
    out, err = capsys.readouterr()
    truth = next(one["truth"] for one in demo.counts() if one["dataset"] == "entra.users")
    assert (code, json.loads(out)) == (3, [{"n": truth}])
    refusal = json.loads(err)
    assert refusal["exit"] == 3
    for why in ("Rows of entra.users are missing for", "AADSTS7000222", "AADSTS50076"):
        assert why in refusal["why"]


def test_the_log_proves_itself(demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = asked(demo, capsys, "audit", "verify")
    assert (code, result["ok"], result["problems"]) == (0, True, [])
    _, events = asked(demo, capsys, "audit", "log")
    assert result["events"] == len(events)
    assert result["checkpoints"] >= 2


def test_one_changed_byte_of_an_event_is_found_and_the_event_named(
    demo: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Events are found in the file by their own bytes, and one byte of them is changed there."""
    copy = tmp_path / "copy"
    shutil.copytree(demo.state, copy, ignore=shutil.ignore_patterns("*.sock", "simulator", "batches"))
    database = copy / "events.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        table = next(
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if any(column[1] == "state" for column in connection.execute(f"PRAGMA table_info({name})"))
        )
        stored = connection.execute(f"SELECT rowid, state FROM {table}").fetchall()  # noqa: S608 - its own name
    whole = database.read_bytes()
    chance = random.Random(20261122)  # noqa: S311 - which bytes to change
    found = 0
    for position, state in chance.sample(stored, len(stored)):
        place = whole.find(state[:60])
        if place < 0 or found == 4:
            continue
        found += 1
        at = place + chance.randrange(min(60, len(state)))
        database.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        code, result = asked(demo, capsys, "audit", "verify", state=copy)
        assert (code, result["ok"]) == (1, False)
        assert {problem["position"] for problem in result["problems"]} == {position}
        assert all({"kind", "position", "stream", "version"} <= problem.keys() for problem in result["problems"])
        assert result["problems"][0]["stream"]
    assert found == 4
    database.write_bytes(whole)
    assert asked(demo, capsys, "audit", "verify", state=copy)[0] == 0


def test_an_interrupted_collect_goes_on(demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C on a terminal while the first answer is awaited; `collect` alone then carries out what is left."""
    with SimulatorProcess(demo.state / "simulator", ["--tenants", "1", "--users", str(USERS)]) as simulator:
        started = simulator.started
        one, cloud = started.tenants[0], next(iter(started.clouds.values()))
        lines = [f'{name} = "{getattr(cloud, name)}"' for name in cloud.__struct_fields__]
        (demo.state / "tenantry.toml").write_text("\n".join(["[clouds.simulator]", *lines]))
        sealing = ["credential", "set", one.id, "--kind", "app-certificate", "--client-id", one.credential.client_id]
        assert asked(demo, capsys, *sealing, "--certificate", one.credential.file)[0] == 0
        slow = {"tenant": one.id, "kind": "slow", "times": None, "options": {"seconds": 10}}
        with httpx.Client(base_url=started.url, verify=ssl.create_default_context(cafile=started.ca_bundle)) as client:
            client.put("/_simulator/faults", json=[slow]).raise_for_status()
            said = interrupted(["collect", one.id, "--full", "-d", "entra.users", "-d", "entra.groups"], demo.state)
            client.delete("/_simulator/faults").raise_for_status()
        assert "goes on from there" in said
        assert "Traceback" not in said
        _, (run, *_) = asked(demo, capsys, "run", "list")
        assert (run["tenant"], run["state"]) == (one.id, "started")
        collected = subprocess.run(  # noqa: S603 - our own command
            [TENANTRY, "collect", "--state", demo.state, "--json"],
            env=environment(),
            capture_output=True,
            check=False,
            timeout=110,
        )
    assert (collected.returncode, collected.stderr) == (0, b"")
    ended = json.loads(collected.stdout)
    assert [row["run"] for row in ended] == [run["run"]]
    assert {row["dataset"]: row["outcome"] for row in ended[0]["datasets"]} == {
        "entra.users": "complete",
        "entra.groups": "complete",
    }


def interrupted(words: list[str], state: Path) -> str:
    """What is said on a terminal of 100 columns by a command that gets Ctrl-C once its progress says `started`."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(  # noqa: S606 - our own command
            TENANTRY, [TENANTRY, *words, "--state", state], environment() | {"COLUMNS": "100", "TERM": "xterm"}
        )
    said, sent = b"", False
    while more := read(terminal):
        said += more
        if not sent and b"started" in said:
            os.write(terminal, b"\x03")
            sent = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3, said[-2000:]
    return " ".join(said.decode().split())


def read(terminal: int) -> bytes:
    """Nothing when the command has ended: Linux then answers with EIO."""
    assert select.select([terminal], [], [], 60)[0], "nothing was said for a minute"
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
