"""The keyholder's systemd unit, `deploy/tenantry-keyholder.service`, as systemd.syntax(7) reads it."""

from __future__ import annotations

import shlex
from pathlib import Path

FILE = Path(__file__).parents[2] / "deploy" / "tenantry-keyholder.service"
SOCKET = "/run/tenantry/keyholder.sock"
ALLOWED_UID = "${ALLOWED_UID}"


def directives() -> dict[str, dict[str, list[str]]]:
    """Section to name to its values in order: some are given again to add to what was given before."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in FILE.read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            section.setdefault(name, []).append(value)
    return found


def arguments(socket: Path, allowed: int) -> list[str]:
    """What the unit starts its keyholder with, for another socket and the user that is allowed."""
    (command,) = directives()["Service"]["ExecStart"]
    _, *words = shlex.split(command)
    assert words[:3] == ["-I", "-m", "vault.keyholder"]
    return [{SOCKET: str(socket), ALLOWED_UID: str(allowed)}.get(word, word) for word in words[3:]]
