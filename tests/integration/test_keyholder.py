"""The keyholder as a process: whom it serves, how it starts and ends, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from crypto.keyring import load_private
from crypto.secret import Secret
from domain.errors import (
    KeyholderUnavailable,
    ReleaseRefused,
)
from domain.events import (
    CredentialReleased,
)
from vault.client import (
    connect,
    open_data_key,
    owner_process,
)
from vault.keyholder import LOG
from vault.line import ALREADY_RUNS, SOCKET
from vault.messages import LENGTH_BYTES, Hello, Refused, ReleaseDataKey, decode_answer, encode
from vault.server import MAX_CONNECTIONS

if TYPE_CHECKING:
    from tests.integration.conftest import House


# the process


def test_what_is_no_message_disturbs_nobody_else(house: House) -> None:
    keyholder = house.keyholder()
    half = house.connected()
    half.sendall(encode(Hello())[:3])
    late = house.connected()
    late.sendall(encode(Hello()) + encode(house.request())[:-1])
    for said in (b"GET / HTTP/1.1\r\n\r\n", (2**32 - 1).to_bytes(4), b"\0\0\0\1\xc1", encode(house.request())):
        connection = house.connected()
        connection.sendall(said)
        answer = decode_answer(connection.recv(65536)[4:])
        assert isinstance(answer, Refused)
        assert answer.error == "ProtocolViolation"
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert house.password_in(keyholder.release(house.request())) == house.password
    assert len([event for event in house.found() if isinstance(event, CredentialReleased)]) == 1


def test_a_caller_of_another_version_is_told_so(house: House) -> None:
    house.keyholder()
    connection = house.connected()
    connection.sendall(encode(Hello(version=99)))
    answer = decode_answer(connection.recv(65536)[4:])
    assert isinstance(answer, Refused)
    assert "version 1" in str(answer.args)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_turned_away(house: House) -> None:
    house.keyholder()
    for directory in [house.state, *house.state.parents][:-2]:
        directory.chmod(0o755)
    (house.state / SOCKET).chmod(0o666)
    assert "does not serve user 65534" in _said_to_nobody(house.state)


def _said_to_nobody(directory: Path) -> str:
    """What the keyholder says to another user."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", CONNECT_AS_NOBODY, str(directory)], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


CONNECT_AS_NOBODY = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setuid(65534)
line = socket.socket(socket.AF_UNIX)
line.connect("keyholder.sock")
print(line.recv(65536))
"""


def test_of_too_many_callers_the_last_is_turned_away_and_the_others_are_served(house: House) -> None:
    keyholder = house.keyholder()
    pid = keyholder.health().pid

    *_, last = [house.connected() for _ in range(MAX_CONNECTIONS)]

    answer = decode_answer(last.recv(65536)[LENGTH_BYTES:])
    assert answer == Refused(error="KeyholderUnavailable", args=(f"{MAX_CONNECTIONS} connections are open",))
    assert keyholder.health().pid == pid
    os.kill(pid, signal.SIGTERM)
    house.wait_for_end(pid)


def test_after_a_kill_the_next_call_starts_another_one(house: House) -> None:
    keyholder = house.keyholder()
    keyholder.release(house.request())
    first = house.killed(signal.SIGKILL)
    assert house.password_in(keyholder.release(house.request())) == house.password
    assert owner_process(house.settings) not in (None, first)


def test_a_client_that_may_not_start_one_says_that_there_is_none(house: House) -> None:
    assert owner_process(house.settings) is None
    with pytest.raises(KeyholderUnavailable):
        connect(house.settings, start=False)


def test_a_second_one_ends_at_once_with_its_own_code(house: House) -> None:
    keyholder = house.keyholder()
    second = subprocess.run(
        [sys.executable, "-I", "-m", "vault.keyholder"],
        input=msgspec.json.encode(house.settings),
        capture_output=True,
        check=False,
    )
    assert (second.returncode, second.stdout, second.stderr) == (ALREADY_RUNS, b"", b"")
    assert keyholder.health().pid == owner_process(house.settings)


def test_many_who_start_it_at_once_find_the_same_one(house: House) -> None:
    command = [sys.executable, "-c", START, house.settings.state]
    starters = [subprocess.Popen(command) for _ in range(3)]  # noqa: S603 - our own interpreter
    assert [starter.wait() for starter in starters] == [0, 0, 0]
    assert house.keyholder().health().pid == owner_process(house.settings), "it survives those who started it"
    assert (house.state / LOG).read_text().count('"started"') == 1


START = """
import sys
from pathlib import Path
sys.path.insert(0, "")
from domain.settings import Settings
from vault.client import connect
s = sys.argv[1]
connect(Settings(state=s, eventstore=f"sqlite://{s}/events.db", secrets=f"file://{s}/secrets", batches="", clouds={}))
"""


def test_a_keyholder_that_cannot_start_says_why(empty_house: House) -> None:
    nowhere = msgspec.structs.replace(empty_house.settings, state=str(empty_house.state / "nowhere"))
    with pytest.raises(KeyholderUnavailable, match="cannot start"):
        connect(nowhere)


def test_it_ends_by_itself_when_nobody_is_connected(house: House) -> None:
    with connect(house.settings, idle_seconds=1.0) as keyholder:
        pid = keyholder.health().pid
    house.wait_for_end(pid)
    assert not (house.state / SOCKET).exists()


def test_asked_to_end_it_ends_though_somebody_is_connected(house: House) -> None:
    keyholder = house.keyholder()
    began = time.monotonic()
    assert keyholder.health().pid == house.killed(signal.SIGTERM)
    assert time.monotonic() - began < 5
    assert '"asked"' in (house.state / LOG).read_text()


def test_it_is_not_dumpable_and_its_socket_is_its_owner_s(house: House) -> None:
    pid = house.keyholder().health().pid
    limits = Path(f"/proc/{pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert Path(f"/proc/{pid}/stat").stat().st_uid == 0, "a process that is not dumpable belongs to root in /proc"
    assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
    assert stat.S_IMODE((house.state / SOCKET).stat().st_mode) == 0o600
    assert {os.readlink(f"/proc/{pid}/fd/{n}") for n in (0, 1, 2)} == {"/dev/null"}


def test_neither_directory_nor_environment_says_what_code_it_runs(house: House) -> None:
    pid = house.keyholder().health().pid
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert command[1:4] == [b"-I", b"-m", b"vault.keyholder"]


def test_no_key_and_no_password_is_in_any_file(house: House) -> None:
    keyholder = house.keyholder()
    keyholder.create_data_key(house.tenant, "operator:alice", "c")
    keyholder.release(house.request())
    sealed = keyholder.release_data_key(
        ReleaseDataKey(tenant=house.tenant, operator="alice", why="x", transit_key=house.transit.public)
    )
    with pytest.raises(ReleaseRefused):
        keyholder.release(house.request(epoch=7))
    keys = house.state / "keys"
    passphrase = Secret((keys / "passphrase").read_bytes().strip())
    private = load_private(next(keys.glob("*.pem")).read_bytes(), passphrase)
    numbers = private.private_numbers()
    needles = [
        house.password.encode(),
        private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())[40:],
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())[64:128],
        numbers.d.to_bytes(384),
        numbers.p.to_bytes(192),
        open_data_key(sealed, house.transit, tenant=house.tenant, receiver="alice").to_secret().reveal(),
    ]
    files = [path for path in house.state.rglob("*") if path.is_file()]
    assert house.state / LOG in files
    for path in files:
        content = path.read_bytes()
        assert not [needle for needle in needles if needle in content or needle.hex().encode() in content], path
    holders = [path.name for path in files if passphrase.reveal() in path.read_bytes()]
    assert holders == ["passphrase"]
