"""What a measured process says about itself, and how one is started: a job in, a line of JSON out."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from domain.settings import Settings

PROC = Path("/proc")
HERE = Path(__file__).parent


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure. `url` and `headers`: of the dataset's first page. `token`: for the bare loop alone."""

    settings: Settings
    tenant: str
    dataset: str
    run: str = ""
    url: str = ""
    headers: dict[str, str] = {}
    token: str = ""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One pass. `seconds`: of the wall clock. `cpu_seconds`: of the measured process, all its threads, in these
    seconds. `row_bytes`: of the rows as lines. `peak_mib`: the most memory the process ever had resident (VmHWM)."""

    rows: int
    seconds: float
    cpu_seconds: float
    requests: int
    row_bytes: int
    stored_bytes: int
    peak_mib: float

    @property
    def rate(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_rate(self) -> float:
        return self.rows / self.cpu_seconds if self.cpu_seconds else 0.0


class Stopwatch:
    seconds = 0.0
    cpu_seconds = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    watch = Stopwatch()
    begun, cpu = time.perf_counter(), time.process_time()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - begun
        watch.cpu_seconds = time.process_time() - cpu


def peak_mib(pid: int | None = None) -> float:
    """VmHWM of a process, this one by default. 0 for one that has ended. Without /proc only this one is known."""
    try:
        status = (PROC / str(pid or "self") / "status").read_text()
    except OSError:
        if pid or PROC.is_dir():
            return 0.0
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


def measure(script: str, job: Job) -> Measured:
    """Runs `bench/SCRIPT` in a process of its own. What it prints on standard error is shown."""
    done = subprocess.run(  # noqa: S603 - our own interpreter and file
        [sys.executable, "-P", str(HERE / script)], input=msgspec.json.encode(job), stdout=subprocess.PIPE, check=True
    )
    return msgspec.json.decode(done.stdout, type=Measured)


def read_job() -> Job:
    return msgspec.json.decode(sys.stdin.buffer.read(), type=Job)


def report(measured: Measured) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of several passes, and the highest peak."""

    rows_per_second: float
    rows_per_cpu_second: float
    peak_mib: float
    rounds: list[Measured]


def summary(rounds: Sequence[Measured]) -> Summary:
    return Summary(
        rows_per_second=statistics.median(one.rate for one in rounds),
        rows_per_cpu_second=statistics.median(one.cpu_rate for one in rounds),
        peak_mib=max(one.peak_mib for one in rounds),
        rounds=list(rounds),
    )


def machine() -> dict[str, str | int]:
    """Where and when: figures without it mean nothing."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def cpu_model() -> str:
    cpus = PROC / "cpuinfo"
    lines = cpus.read_text().splitlines() if cpus.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
