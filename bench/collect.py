"""How fast one large tenant is collected, beside the least that can be done with the same pages, and in what memory.

    python bench/collect.py [--users N] [--rounds N] [--ray] [--json]

A simulated tenant serves `entra.users` from a process of its own. The collector (`core.py`), the bare loop (`bare.py`)
and, with `--ray`, the whole system (`whole.py`) read all of it in turn, each in a new process. Exit code 1 when a
requirement does not hold; requirements are about a tenant of 100,000 users and are only judged from there on.
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    sys.path.pop(0)  # this directory: vault.py in it is not the package

import argparse
import os
import shlex
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.measured import Job, Measured, Summary, machine, measure, summary
from cli.collect import request
from cli.config import load
from cli.intake import read_credential
from cli.sealing import make, store_sealed
from cli.simulated import SimulatedTenant, SimulatorProcess
from cli.state import State, initialise, stop_keyholder
from cli.tenant import register
from collectors.catalog import load_catalog
from collectors.graph import HEADERS, first_url
from collectors.signin import SignIn
from crypto.credential import Payload
from domain.events import TenantRegistered
from domain.ids import ENTRA, TenantId, dataset

CLOUD = "simulator"
DATASET = dataset("entra.users")
LEAST_RATIO = 0.6
MOST_PEAK_MIB = 300.0
JUDGED_FROM_USERS = 100_000
SCRIPTS = {"core": "core.py", "bare": "bare.py", "ray": "whole.py"}
NAMES = {"core": "collector", "bare": "bare loop", "ray": "through Ray"}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`ratio`: collector to bare loop, of the medians; `ratios`: of each pair. `cpu_ratio`: the same per CPU second.
    `ray_ratio`: the whole system to the bare loop, of the medians. `peak_mib`: the highest of a collecting process."""

    command: str
    machine: dict[str, str | int]
    users: int
    ratio: float
    ratios: list[float]
    cpu_ratio: float
    ray_ratio: float | None
    peak_mib: float
    measured: dict[str, Summary]
    problems: list[str]


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-", dir=options.directory or None) as directory:
        rounds = carried_out(Path(directory), options.users, options.rounds, ray=options.ray)
    result = compared(options.users, rounds)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    else:
        sys.stdout.write(shown(result))
    return 1 if result.problems else 0


def carried_out(directory: Path, users: int, rounds: int, *, ray: bool) -> dict[str, list[Measured]]:
    """All passes by kind. One that is not counted goes first: the simulator makes its rows while it is read."""
    kinds = ["core", "bare", *(["ray"] if ray else [])]
    found: dict[str, list[Measured]] = {kind: [] for kind in kinds}
    with SimulatorProcess(directory / "simulator", ["--tenants", "1", "--users", str(users)]) as simulator:
        effective = load(str(directory / "state"), None, {}, directory).settings
        settings = msgspec.structs.replace(effective, clouds=simulator.started.clouds)
        initialise(settings)
        state = State(settings)
        try:
            tenant = simulator.started.tenants[0]
            enrol(state, tenant)
            job = Job(settings=settings, tenant=tenant.id, dataset=DATASET)
            measure(SCRIPTS["bare"], bare_job(job, tenant))
            for _ in range(rounds):
                for kind in kinds:
                    prepared = bare_job(job, tenant) if kind == "bare" else requested_job(job, state)
                    found[kind].append(measure(SCRIPTS[kind], prepared))
            truth = simulator.truth(tenant.id, "users")
        finally:
            stop_keyholder(settings)
            state.store.close()
    wrong = {kind: one.rows for kind, passes in found.items() for one in passes if one.rows != truth}
    if wrong:
        raise RuntimeError(f"there are {truth} rows, but not for everyone: {wrong}")
    return found


def enrol(state: State, tenant: SimulatedTenant) -> None:
    register(state, TenantRegistered(tenant=TenantId(tenant.id), name=tenant.name, domain=tenant.domain, cloud=CLOUD))
    store_sealed(state, make(TenantId(tenant.id), ENTRA, state.public_key(), credential_of(tenant)))


def credential_of(tenant: SimulatedTenant) -> Payload:
    """The first tenant of a simulated estate signs in by certificate."""
    known = tenant.credential
    return read_credential(known.kind, known.client_id, known.username, Path(known.file))


def requested_job(job: Job, state: State) -> Job:
    (run,) = request(state, [state.tenant(job.tenant)], [job.dataset], full=True)
    return msgspec.structs.replace(job, run=run)


def bare_job(job: Job, tenant: SimulatedTenant) -> Job:
    """With the address of the first page that the collector asks for, its page size and an access token."""
    definition = load_catalog(job.settings.catalog)[DATASET]
    cloud = job.settings.clouds[CLOUD]
    sign_in = SignIn(cloud, TenantId(tenant.id), credential_of(tenant), now=lambda: datetime.now(UTC))
    return msgspec.structs.replace(
        job,
        url=first_url(definition, cloud.graph),
        headers={**HEADERS, "Prefer": f"odata.maxpagesize={definition.page_size}"},
        token=sign_in.token("graph").value.text(),
    )


def compared(users: int, rounds: dict[str, list[Measured]]) -> Result:
    measured = {kind: summary(passes) for kind, passes in rounds.items()}
    core, bare = measured["core"], measured["bare"]
    ratio = core.rows_per_second / bare.rows_per_second
    peak = max(one.peak_mib for kind, one in measured.items() if kind != "bare")
    problems = []
    if users >= JUDGED_FROM_USERS and ratio < LEAST_RATIO:
        problems.append(f"ratio {ratio:.2f} is below {LEAST_RATIO}")
    if users >= JUDGED_FROM_USERS and peak >= MOST_PEAK_MIB:
        problems.append(f"peak {peak:.0f} MiB is not below {MOST_PEAK_MIB:.0f} MiB")
    return Result(
        command=shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        machine=machine(),
        users=users,
        ratio=ratio,
        ratios=[ours.rate / theirs.rate for ours, theirs in zip(core.rounds, bare.rounds, strict=True)],
        cpu_ratio=core.rows_per_cpu_second / bare.rows_per_cpu_second,
        ray_ratio=measured["ray"].rows_per_second / bare.rows_per_second if "ray" in measured else None,
        peak_mib=peak,
        measured=measured,
        problems=problems,
    )


def shown(result: Result) -> str:
    where = result.machine
    one = result.measured["core"].rounds[0]
    lines = [
        f"{DATASET}, {result.users:,} users, full: {one.requests} requests, {one.row_bytes / one.rows:.0f} bytes a row,"
        f" {one.stored_bytes / one.row_bytes:.3f} of them stored",
        f"{where['cpu']}, {where['cores']} cores (load {where['load']}), {where['system']}, Python {where['python']}",
        f"{where['date']}  {result.command}",
        "",
        f"{f'median of {len(result.ratios)}':<14}{'rows/s':>10}{'rows/CPU s':>12}{'peak MiB':>10}   each round",
    ]
    for kind, found in result.measured.items():
        each = ", ".join(f"{one.rate:,.0f}" for one in found.rounds)
        cpu = f"{found.rows_per_cpu_second:,.0f}" if found.rows_per_cpu_second else "-"
        lines.append(f"{NAMES[kind]:<14}{found.rows_per_second:>10,.0f}{cpu:>12}{found.peak_mib:>10.0f}   {each}")
    pairs = ", ".join(f"{ratio:.2f}" for ratio in result.ratios)
    spread = statistics.pstdev(result.ratios)
    judged = "" if result.users >= JUDGED_FROM_USERS else f" of {JUDGED_FROM_USERS:,} users and more"
    lines += [
        "",
        f"collector / bare loop: {result.ratio:.2f} (pairs: {pairs}; deviation {spread:.2f}),"
        f" required {LEAST_RATIO}{judged}",
        f"per CPU second: {result.cpu_ratio:.2f}",
        *([] if result.ray_ratio is None else [f"through Ray / bare loop: {result.ray_ratio:.2f}"]),
        f"peak of the collecting process: {result.peak_mib:.0f} MiB, required below {MOST_PEAK_MIB:.0f}{judged}",
        *(f"NOT HELD: {problem}" for problem in result.problems),
    ]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="rows/s of one large tenant, beside a bare loop over the same pages")
    parser.add_argument("--users", type=int, default=100_000, help="users of the tenant (100000)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each kind (3)")
    parser.add_argument("--ray", action="store_true", help="measure the whole system with its actors as well")
    parser.add_argument("--directory", default="", help="where to work, on the disk to be measured (a temporary one)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    options = parser.parse_args()
    if not (1 <= options.users <= 1_000_000 and 1 <= options.rounds <= 100):
        parser.error("users: 1 to 1000000, rounds: 1 to 100")
    return options


if __name__ == "__main__":
    sys.exit(main())
