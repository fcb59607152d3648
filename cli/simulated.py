"""The simulator as a process of its own: started, asked, stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import msgspec

from collectors.transport import tls_context
from domain.errors import PermanentError, PortInUse
from domain.settings import Cloud

START_SECONDS = 60.0


def program() -> str:
    """What to type for this command: its name where the shell finds it, else where it is."""
    return "tenantry" if shutil.which("tenantry") else os.path.relpath(sys.argv[0])


class SimulatorFailed(PermanentError):
    """(why)"""

    sentence = "The simulator did not start: {0}. Check --directory."


class SimulatedCredential(msgspec.Struct, frozen=True, kw_only=True):
    """`file` holds the secret: PEM with key and certificate, client secret, or password."""

    kind: Literal["app-certificate", "app-secret", "service-account"]
    client_id: str = ""
    username: str = ""
    file: str


class SimulatedAccount(msgspec.Struct, frozen=True, kw_only=True):
    username: str
    file: str


class SimulatedTenant(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    domain: str
    name: str
    exchange_server: bool
    credential: SimulatedCredential
    exchange_server_credential: SimulatedAccount | None = None


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The line that the simulator prints when it serves."""

    url: str
    ca_bundle: str
    clouds: dict[str, Cloud]
    tenants: list[SimulatedTenant]


class SimulatorProcess:
    """`with SimulatorProcess(...) as simulator:` serves until the end of the block, and no longer than its starter."""

    def __init__(self, directory: Path, arguments: Sequence[str], port: int = 0) -> None:
        self._directory = directory
        self._arguments = [*arguments, f"--port={port}"]
        self._port = port
        self.started: Started

    def __enter__(self) -> Self:
        command = [sys.executable, "-I", "-m", "simulator", "--state", str(self._directory), "--until-stdin-closes"]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        line = self._process.stdout.readline() if self._process.stdout else b""
        try:
            self.started = msgspec.json.decode(line, type=Started)
        except msgspec.DecodeError:
            _, said = self._process.communicate(timeout=START_SECONDS)
            why = said.decode(errors="replace").strip()[-300:]
            if self._port and f"Port {self._port} " in why:
                raise PortInUse(self._port) from None
            raise SimulatorFailed(why or "it said nothing") from None
        self._client = httpx.Client(base_url=self.started.url, verify=tls_context(self.started.ca_bundle), timeout=60.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._process.communicate(timeout=START_SECONDS)

    def truth(self, tenant: str, dataset: str) -> int:
        """How many rows the simulated service has of a dataset, by its own name."""
        answer = self._client.get(f"/_simulator/truth/{tenant}/{dataset}", params={"items": "no"})
        return int(answer.raise_for_status().json()["rows"])

    def change(self, fraction: float) -> dict[str, int]:
        """Edits, adds and removes about this fraction of everybody's data; how much of each, over all tenants."""
        answer = self._client.post("/_simulator/change", json={"tenant": "*", "fraction": fraction})
        total: Counter[str] = Counter()
        for counts in answer.raise_for_status().json().values():
            total.update(counts)
        return dict(total)

    def set_up(self, tenant: str, settings: dict[str, Any]) -> None:
        """Options of the simulated tenant, as `simulator` documents them."""
        self._client.patch(f"/_simulator/tenants/{tenant}", json={"settings": settings}).raise_for_status()

    def wait(self, announce: Callable[[], None]) -> None:
        """Until the simulator ends, or Ctrl-C, which may come as soon as `announce` has begun to say so."""
        with contextlib.suppress(KeyboardInterrupt):
            announce()
            self._process.wait()
