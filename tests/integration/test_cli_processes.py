"""The command as a process: full disks, other users, closed pipes, ends of input, interrupts."""

from __future__ import annotations

import json
import os
import pty
import resource
import shlex
import subprocess
import sys
from secrets import token_hex

import pytest
from desk import CLIENT, CONTOSO, TENANTRY, Desk, as_its_owner, environment, one_line, run, said_until

from domain.ids import ENTRA, credential_stream, tenant_id

NOBODY = 65534


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


def tiny_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))


def test_a_full_disk_during_init_leaves_nothing(desk: Desk) -> None:
    said = run(desk, "init", "--state", "full", before=small_files)
    assert said.code == 1, said
    one_line(said.err)
    assert not (desk.directory / "full").exists()


def test_a_full_disk_during_put_changes_nothing(desk: Desk) -> None:
    file = desk.seal("first.json")
    before = desk.opened().store.last_position()
    said = run(desk, "credential", "put", str(file), before=tiny_files)
    assert said.code == 1, said
    one_line(said.err)
    state = desk.opened()
    assert state.secrets.names("credential-") == []
    assert state.store.last_position() == before


def test_keys_that_may_not_be_written_are_no_full_disk(desk: Desk) -> None:
    keys = desk.state / "keys"
    before = sorted(keys.iterdir())
    keys.chmod(0o500)
    said = run(desk, "vault", "rotate", before=as_its_owner)
    assert (said.code, "this user may not" in one_line(said.err)) == (2, True)
    said = run(desk, "init", "--state", "new", before=as_its_owner, TENANTRY_VAULT_PASSPHRASE_FILE=f"{keys}/a/b")
    assert (said.code, "this user may not" in one_line(said.err)) == (2, True)
    keys.chmod(0o700)
    assert sorted(keys.iterdir()) == before


def test_a_full_disk_during_export_leaves_no_file(desk: Desk) -> None:
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = desk.directory / "disk"
    disk.mkdir()
    mounted = subprocess.run(  # noqa: S603 - our own directory
        ["/usr/bin/env", "mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "tmpfs", disk],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let us mount")
    try:
        said = run(desk, "data", "export", "entra.users", "--format", "csv", "--out", "disk/users.csv")
        assert said.code == 1, said
        assert "free space" in one_line(said.err)
        assert list(disk.iterdir()) == []
        said = run(desk, "init", "--state", "disk/state")
        assert said.code == 1, said
        assert "free space" in one_line(said.err)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["/usr/bin/env", "umount", disk], check=True)  # noqa: S603


@pytest.mark.parametrize(
    "words", [["tenant", "list"], ["init"], ["collect", "--all"], ["credential", "list"]], ids=" ".join
)
def test_another_user_is_refused(desk: Desk, words: list[str]) -> None:
    if os.getuid() != 0:
        pytest.skip("becoming another user needs root")
    program = (
        "import os, sys, zoneinfo; from cli.main import COMMANDS, GROUPS, load, main; "
        "[load(name) for name in (*COMMANDS, *GROUPS)]; "
        "os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1])); sys.exit(main(sys.argv[2:]))"
    )
    ended = subprocess.run(  # noqa: S603 - our own program
        [
            sys.executable,
            "-c",
            program,
            str(NOBODY),
            *words,
            "--state",
            str(desk.state),
        ],
        cwd="/",
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode in (1, 2)
    assert "ermission" in one_line(ended.stderr)


def test_a_reader_that_has_had_enough_is_no_error(desk: Desk) -> None:
    for words in ("audit log", "audit log --json", "tenant list --json"):
        command = f"{TENANTRY} {words} --state {desk.state} | head -c 1; exit ${{PIPESTATUS[0]}}"
        ended = subprocess.run(  # noqa: S603 - our own command
            ["/bin/bash", "-c", command], env=environment(), capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert len(ended.stdout) == 1


def test_the_end_of_input_at_a_prompt_does_nothing(desk: Desk) -> None:
    """On a terminal, where Ctrl-D ends the input."""
    main_end, other_end = pty.openpty()
    words = ["credential", "set", CONTOSO, "--kind", "app-secret", "--client-id", CLIENT]
    asked = subprocess.Popen(  # noqa: S603 - our own command
        [TENANTRY, *words],
        cwd=desk.directory,
        env=environment(),
        stdin=other_end,
        stdout=other_end,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(other_end)
    assert asked.stderr is not None
    said = os.read(asked.stderr.fileno(), 100)
    assert b"Client secret" in said
    os.write(main_end, b"\x04")
    _, err = asked.communicate(timeout=30)
    os.close(main_end)
    assert asked.returncode == 1
    assert b"input ended" in err
    assert b"Traceback" not in err
    assert desk.opened().store.read(credential_stream(tenant_id(CONTOSO), ENTRA)) == ()


def test_offboarding_is_asked_for_and_not_done_without_an_answer(desk: Desk) -> None:
    said = run(desk, "tenant", "offboard", CONTOSO, "--reason", "left")
    assert said.code == 1
    assert "Traceback" not in said.err
    assert "input ended" in said.err
    assert json.loads(desk.type("tenant", "show", CONTOSO, "--json").out)["state"] == "active"


def test_an_unforeseen_error_is_one_line_and_a_log_without_secrets(desk: Desk) -> None:
    """Of a command that fails, with what every command shares around it."""
    secret = token_hex(16)
    program = (
        "import sys, typer\nfrom cli.command import add_command\n"
        f"def fragile(session):\n    secret = {secret!r}\n    raise ZeroDivisionError('unforeseen')\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\nadd_command(app, 'fragile', fragile)\n"
        "app(['--state', sys.argv[1]])\n"
    )
    for debug in (False, True):
        ended = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", program, str(desk.state)],
            env=environment() | ({"TENANTRY_DEBUG": "1"} if debug else {}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 1
        assert ("Traceback" in ended.stderr) == debug
        assert secret not in ended.stderr
        assert "ZeroDivisionError: unforeseen" in ended.stderr.splitlines()[-1]
    log = desk.state / "logs" / "cli.log"
    assert str(log) in ended.stderr
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.read_text().count("Traceback") == 2
    assert secret not in log.read_text()


def test_an_interrupt_is_one_line(desk: Desk) -> None:
    """The simulator serves until it is interrupted. What it says to type is found, also where no path leads to it."""
    serving = subprocess.Popen(  # noqa: S603 - our own command
        [TENANTRY, "simulate", "--tenants", "1", "--users", "10", "--directory", "sim"],
        cwd=desk.directory,
        env={**environment(), "PATH": os.defpath},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said = said_until(serving, b"Ctrl-C stops it")
    serving.terminate()
    _, err = serving.communicate(timeout=30)
    assert (serving.returncode, err) == (0, b"")
    (line,) = [one for one in said.decode().splitlines() if " credential set " in one]
    assert (desk.directory / shlex.split(line)[0]).samefile(TENANTRY)


@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        ("> /dev/full", 1, "Cannot write to standard output: No space left on device."),
        (">&-", 1, "Standard output is closed."),
        ("> list.txt 2>&-", 0, ""),
    ],
)
def test_standard_streams_that_cannot_be_written_are_told_in_one_line(
    desk: Desk, redirection: str, code: int, told: str
) -> None:
    ended = subprocess.run(  # noqa: S603 - our own command
        ["/bin/sh", "-c", f"exec {TENANTRY} tenant list {redirection}"],
        cwd=desk.directory,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == code
    assert ended.stderr == "" if not told else told in one_line(ended.stderr)


def test_an_encoding_without_our_signs_gets_others(desk: Desk) -> None:
    said = run(desk, "doctor", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert "+ settings: " in said.out
    assert "Unexpected" not in said.err
