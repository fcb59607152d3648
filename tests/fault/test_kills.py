"""Any process is killed at a random moment: the runs end complete, no row is lost and none counts twice."""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from random import Random

import driver
import pytest
from memory import descendants
from running import Running, killed

from cli.ledger import sign_checkpoint, verified
from domain.events import BatchRecorded, CredentialReleased, Recorded, RunStarted
from domain.ids import RunId
from simulator.population import change
from simulator.world import Tenant

DATASETS = (
    "own.users",
    "own.groups",
    "entra.groups",
    "entra.group-owners",
    "exchange.mailboxes",
    "exchange.mailbox-statistics",
    "exchange.transport-rules",
    "onprem.mailboxes",
)
USERS = 160
LATEST_BATCH = 20
"""Two runs have about a hundred batches."""
HELD = "exchange.get-transportrule"
HELD_SECONDS = 8.0
"""So long one answer is held back where a run must still be going on when its driver is killed."""


@pytest.fixture(scope="module")
def pair(running: Running) -> list[Tenant]:
    """Two tenants, so that every tenant actor is at work."""
    tenants = [running.estate.add_tenant(USERS, "app-secret", exchange_server=True) for _ in range(2)]
    for tenant in tenants:
        tenant.settings.update(exchange_page_cap=10, throttle=False, psrp_max_shells=100)
    return tenants


@pytest.fixture
def rng(record_property: Callable[[str, object], None]) -> Random:
    """Whoever fails finds the seed among what the test said."""
    seed = secrets.randbits(32)
    record_property("seed", seed)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    return Random(seed)  # noqa: S311 - repeatable on purpose


def nth(count: int, *kinds: type) -> Callable[[Recorded], bool]:
    """True at the `count`th event of these kinds."""
    left = count

    def seen(recorded: Recorded) -> bool:
        nonlocal left
        left -= isinstance(recorded.event, kinds)
        return left <= 0

    return seen


def intact(running: Running, tenants: Sequence[Tenant], requested: Sequence[RunId]) -> None:
    for tenant, run in zip(tenants, requested, strict=True):
        assert running.differences(tenant, running.run(run)) == []
    sign_checkpoint(running.estate.state, "test")
    result = verified(running.estate.state, [])
    assert result.ok, result.problems


def ours(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes of the actors below a driver."""
    found = descendants(process.pid).items()
    return [pid for pid, command in found if command.startswith("ray::") and "Agent" not in command]


@pytest.mark.parametrize(
    ("victims", "kinds"),
    [
        (("tenant-0",), (BatchRecorded,)),
        (("graph-0",), (BatchRecorded,)),
        (("powershell-0",), (BatchRecorded,)),
        (("supervisor",), (BatchRecorded,)),
        (("vault",), (RunStarted, CredentialReleased)),
        (("keyholder",), (RunStarted, CredentialReleased)),
        (("tenant-1", "graph-0", "powershell-0", "keyholder", "vault", "supervisor"), (BatchRecorded,)),
    ],
    ids=lambda names: "-and-".join(names) if names and isinstance(names[0], str) else "",
)
def test_a_process_that_is_killed_costs_no_row(
    running: Running, pair: list[Tenant], rng: Random, victims: tuple[str, ...], kinds: tuple[type, ...]
) -> None:
    for tenant in pair:
        change(tenant, 0.05)
    pids, position = running.pids(), running.position()
    requested = running.request(pair, DATASETS, full=rng.random() < 0.5)
    running.system.work(until_idle=True)

    running.until(nth(rng.randrange(1, 3 if RunStarted in kinds else LATEST_BATCH), *kinds), position)
    for victim in victims:
        killed(pids[victim])
    running.finish()

    intact(running, pair, requested)


def test_a_driver_that_is_killed_leaves_runs_that_the_next_one_finishes(
    running: Running, pair: list[Tenant], rng: Random
) -> None:
    position = running.position()
    for tenant in pair:
        running.estate.fail(tenant, HELD, "slow", seconds=HELD_SECONDS)
    requested = running.request(pair, DATASETS, full=True)
    process = driver.start(running.estate.settings)

    running.until(
        nth(rng.randrange(1, LATEST_BATCH), BatchRecorded), position, lambda seconds: driver.ended(process, seconds)
    )
    actors = [os.pidfd_open(pid) for pid in ours(process)]
    process.kill()
    process.wait()
    for actor in actors:
        assert select.select([actor], [], [], 5.0)[0], "it would go on working, with the credential it holds"
        os.close(actor)
    assert len(actors) > 2
    assert all(running.run(run).state in {"requested", "started"} for run in requested)
    running.carry_out(requested)

    intact(running, pair, requested)


def test_a_driver_whose_ray_dies_ends_by_itself_and_the_next_one_goes_on(
    running: Running, pair: list[Tenant], rng: Random
) -> None:
    position = running.position()
    for tenant in pair:
        running.estate.fail(tenant, HELD, "slow", seconds=HELD_SECONDS)
    requested = running.request(pair, DATASETS, full=True)
    process = driver.start(running.estate.settings)

    running.until(
        nth(rng.randrange(1, LATEST_BATCH), BatchRecorded), position, lambda seconds: driver.ended(process, seconds)
    )
    assert process.poll() is None
    raylet = next(pid for pid, command in descendants(process.pid).items() if "/raylet/raylet " in command)
    os.kill(raylet, signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    running.carry_out(requested)

    intact(running, pair, requested)


def test_two_drivers_at_once_lose_nothing_and_count_nothing_twice(running: Running, pair: list[Tenant]) -> None:
    """`collect` lets one in; a driver that outlives its node, or works on another machine, holds no lock of here."""
    requested = running.request(pair, DATASETS, full=True)

    drivers = [driver.start(running.estate.settings) for _ in range(2)]

    assert [process.wait(timeout=120) for process in drivers] == [0, 0]
    intact(running, pair, requested)
    assert {running.run(run).state for run in requested} == {"finished"}
