"""A process of its own that carries out what is requested, as `tenantry collect` does. Standard input: the settings."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from actors.system import System
from domain.settings import Settings

BATCH_BYTES = 4_000


def drive() -> None:
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    with System(settings, batch_bytes=BATCH_BYTES) as system:
        system.work(until_idle=True)
        while not system.ended(1.0):
            continue


def start(settings: Settings) -> subprocess.Popen[bytes]:
    process = subprocess.Popen((sys.executable, __file__), stdin=subprocess.PIPE)  # noqa: S603 - this very file
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(settings))
    process.stdin.close()
    return process


def ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


if __name__ == "__main__":
    drive()
