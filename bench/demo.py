"""How long `tenantry demo` takes, and how much memory all its processes have together.

    python bench/demo.py [--tenants N] [--users N] [--rounds N] [--json]

Memory is the sum of the proportional set sizes (PSS) of the command and everything that it started, twice a second:
pages that processes share count once. Exit code 1 when a requirement does not hold.
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    sys.path.pop(0)  # this directory: vault.py in it is not the package

import argparse
import os
import shlex
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bench.measured import PROC, machine

MOST_SECONDS, MOST_MIB = 90.0, 2.5 * 1024
TICK_SECONDS = 0.5
MARK = "TENANTRY_BENCH_DEMO"
"""In the environment of the command, and so of all that it starts, whoever their parent is by then."""


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    peak_mib: float
    processes: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    command: str
    machine: dict[str, Any]
    tenants: int
    users: int
    rounds: list[Pass]
    seconds: float
    peak_mib: float
    problems: list[str]


def measured(tenants: int, users: int, directory: Path) -> Pass:
    """One demo in a directory of its own. Raises `CalledProcessError` when it fails."""
    words = [str(Path(sys.executable).with_name("tenantry")), "demo", "--json"]
    words += ["--tenants", str(tenants), "--users", str(users), "--state", str(directory / "demo")]
    mark, peak, processes = str(directory), 0.0, 0
    begun = time.monotonic()
    with (directory / "said").open("wb") as said:
        demo = subprocess.Popen(words, stdout=said, env={**os.environ, MARK: mark})  # noqa: S603 - our own command
        ended = False
        while not ended:
            with suppress(subprocess.TimeoutExpired):
                demo.wait(TICK_SECONDS)
                ended = True
            found = [size for size in map(pss_mib, marked(mark)) if size]
            peak, processes = max(peak, sum(found)), max(processes, len(found))
    if demo.returncode:
        raise subprocess.CalledProcessError(demo.returncode, words)
    return Pass(seconds=time.monotonic() - begun, peak_mib=peak, processes=processes)


def marked(mark: str) -> list[Path]:
    """The processes whose environment has the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for process in PROC.iterdir():
        with suppress(OSError):
            if process.name.isdecimal() and wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(process)
    return found


def pss_mib(process: Path) -> float:
    """0 for one that has ended meanwhile."""
    with suppress(OSError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            name, _, size = line.partition(":")
            if name == "Pss":
                return int(size.split()[0]) / 1024
    return 0.0


def compared(options: argparse.Namespace, rounds: list[Pass]) -> Result:
    seconds = statistics.median(one.seconds for one in rounds)
    peak = max(one.peak_mib for one in rounds)
    problems = []
    if seconds > MOST_SECONDS:
        problems.append(f"{seconds:.0f} s are more than {MOST_SECONDS:.0f}")
    if peak > MOST_MIB:
        problems.append(f"{peak:.0f} MiB are more than {MOST_MIB:.0f}")
    return Result(
        command=shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        machine=machine(),
        tenants=options.tenants,
        users=options.users,
        rounds=rounds,
        seconds=seconds,
        peak_mib=peak,
        problems=problems,
    )


def shown(result: Result) -> str:
    where = result.machine
    lines = [
        f"{result.tenants} tenants, {result.users:,} users each",
        f"{where['cpu']}, {where['cores']} cores (load {where['load']}), {where['system']}, Python {where['python']}",
        f"{where['date']}  {result.command}",
        "",
        *(f"{one.seconds:6.1f} s, {one.peak_mib:6.0f} MiB in {one.processes} processes" for one in result.rounds),
        "",
        f"median {result.seconds:.1f} s, required {MOST_SECONDS:.0f}",
        f"peak of all processes together {result.peak_mib:.0f} MiB, required {MOST_MIB:.0f}",
        *(f"NOT HELD: {problem}" for problem in result.problems),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="seconds of the demo, and memory of all its processes")
    parser.add_argument("--tenants", type=int, default=6, help="simulated tenants (6)")
    parser.add_argument("--users", type=int, default=500, help="users of each (500)")
    parser.add_argument("--rounds", type=int, default=3, help="demos, one after the other (3)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    options = parser.parse_args()
    rounds = []
    for _ in range(max(1, options.rounds)):
        with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as directory:
            rounds.append(measured(options.tenants, options.users, Path(directory)))
    result = compared(options, rounds)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    else:
        sys.stdout.write(shown(result))
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
