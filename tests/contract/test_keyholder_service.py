"""The keyholder's systemd unit: what it says, and what systemd itself says about it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from unit import ALLOWED_UID, FILE, SOCKET, directives

from domain.settings import Settings

SYSTEMD = shutil.which("systemd-analyze")
USER = "tenantry-keyholder"
SERVICE = directives()["Service"]
TAKEN_AWAY = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateMounts": "yes",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectControlGroups": "yes",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "RemoveIPC": "yes",
    "LockPersonality": "yes",
    "SystemCallArchitectures": "native",
}


def test_it_runs_as_a_user_of_its_own_with_nothing_of_root() -> None:
    assert (SERVICE["User"], SERVICE["Group"]) == ([USER], [USER])
    commands = [command for name, values in SERVICE.items() if name.startswith("Exec") for command in values]
    assert commands == [f"/opt/tenantry/bin/python -I -m vault.keyholder --socket {SOCKET} --allow-uid {ALLOWED_UID}"]
    assert "PermissionsStartOnly" not in SERVICE
    assert "SupplementaryGroups" not in SERVICE


@pytest.mark.parametrize("name", TAKEN_AWAY)
def test_what_it_does_not_need_is_taken_away(name: str) -> None:
    assert SERVICE[name] == [TAKEN_AWAY[name]]


def test_its_memory_reaches_no_disk_and_it_may_lock_it() -> None:
    assert SERVICE["LimitCORE"] == ["0"]
    assert SERVICE["MemorySwapMax"] == ["0"]
    assert SERVICE["LimitMEMLOCK"] == ["infinity"]
    first, taken, *given = SERVICE["SystemCallFilter"]
    assert first == "@system-service"
    assert {"~@privileged", "@debug", "@swap", "@raw-io"} <= set(taken.split())
    assert given == ["mlockall setrlimit prlimit64"], "what `vault.hardening` calls"


def test_what_it_keeps_is_its_own_and_its_socket_can_be_reached() -> None:
    assert SERVICE["StateDirectory"] == [USER]
    assert SERVICE["StateDirectoryMode"] == ["0700"]
    assert SERVICE["UMask"] == ["0077"]
    assert SERVICE["RuntimeDirectory"] == [SOCKET.split("/")[2]]
    assert SERVICE["RuntimeDirectoryMode"] == ["0755"]


def test_the_settings_that_it_reads_are_written_by_the_command_in_its_comment(tmp_path: Path) -> None:
    comment = "\n".join(line.removeprefix("#") for line in FILE.read_text().splitlines() if line.startswith("#"))
    written = re.search(r"/opt/tenantry/bin/python (-c '[^']*') > keyholder\.json", comment)
    assert written
    (tmp_path / "tenantry.toml").write_text('state = "/var/lib/tenantry-keyholder"\n')
    command = [sys.executable, *shlex.split(written[1])]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout  # noqa: S603 - our own command
    settings = msgspec.json.decode(made, type=Settings)
    assert settings.state == f"/var/lib/{SERVICE['StateDirectory'][0]}"
    assert SERVICE["StandardInput"] == ["file:/etc/tenantry/keyholder.json"]


@pytest.mark.skipif(SYSTEMD is None, reason="systemd is not installed: the unit is read, not verified")
def test_systemd_understands_all_of_it(tmp_path: Path) -> None:
    """With this interpreter in the place of the one that is installed on a node."""
    unit = tmp_path / FILE.name
    unit.write_text(FILE.read_text().replace("/opt/tenantry/bin/python", sys.executable))
    assert SYSTEMD is not None
    said = subprocess.run([SYSTEMD, "verify", str(unit)], capture_output=True, text=True, check=False)  # noqa: S603
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
