"""The whole system: enrolled tenants are collected through Ray, and what was collected is what there is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from running import Running

from cli.ledger import sign_checkpoint, verified
from collectors.catalog import load_catalog
from domain.errors import SignInFailed
from domain.events import CredentialReleased, ReleaseDenied
from domain.ids import ENTRA, TenantId, credential_stream
from domain.run import Run
from simulator.population import change
from simulator.world import SignInState, Tenant

OURS = tuple(load_catalog())
KINDS = ("app-certificate", "app-secret", "service-account")
USERS = 150


class Noted(list[tuple[str, str, str, int]]):
    """The simulator's notes of answered requests, each with the time it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[datetime] = []

    def append(self, note: tuple[str, str, str, int]) -> None:
        self.times.append(datetime.now(UTC))
        super().append(note)

    def of(self, tenant: Tenant, route: str | None = None) -> list[datetime]:
        return [
            at for at, note in zip(self.times, self, strict=True) if note[0] == tenant.id and route in (None, note[1])
        ]


@dataclass
class Nights:
    """Three tenants, one for each kind of credential, collected twice with some changes between."""

    running: Running
    tenants: list[Tenant]
    first: list[Run]
    differences: list[list[str]]
    requests: list[int]
    second: list[Run]


@pytest.fixture(scope="module")
def noted(running: Running) -> Iterator[Noted]:
    world = running.estate.simulator.world
    before, world.requests = world.requests, Noted()
    yield world.requests
    world.requests = before


@pytest.fixture(scope="module")
def nights(running: Running, noted: Noted) -> Nights:
    tenants = [running.estate.add_tenant(USERS, kind, exchange_server=kind == KINDS[0]) for kind in KINDS]
    for tenant in tenants:
        tenant.settings.update(exchange_page_cap=40, throttle=False)
    first = running.collect(*tenants, names=OURS)
    found = [running.differences(tenant, run) for tenant, run in zip(tenants, first, strict=True)]
    asked = [len(noted.of(tenant)) for tenant in tenants]
    for tenant in tenants:
        change(tenant, 0.02)
    second = running.collect(*tenants, names=OURS)
    return Nights(running, tenants, first, found, asked, second)


def test_every_dataset_of_every_tenant_is_what_there_is(nights: Nights) -> None:
    assert nights.differences == [[], [], []]
    assert [len(run.outcomes) for run in nights.first] == [12, 10, 10]


def test_after_changes_a_second_run_leads_to_what_there_is_then(nights: Nights) -> None:
    found = [nights.running.differences(tenant, run) for tenant, run in zip(nights.tenants, nights.second, strict=True)]

    assert found == [[], [], []]


def test_a_second_run_asks_for_what_changed_only(nights: Nights) -> None:
    for before, after in zip(nights.first, nights.second, strict=True):
        rows = {one.dataset: one.rows for one in before.outcomes}
        again = {one.dataset: one.rows for one in after.outcomes}
        for name in ("entra.users", "entra.groups", "audit.sign-ins"):
            assert again[name] <= rows[name] / 4  # type: ignore[index]


def test_a_release_is_on_record_before_the_first_request_is_made(nights: Nights, noted: Noted) -> None:
    store = nights.running.estate.state.store
    for tenant, run in zip(nights.tenants, nights.first, strict=True):
        released = [
            recorded
            for recorded in store.read(credential_stream(TenantId(tenant.id), ENTRA))
            if isinstance(recorded.event, CredentialReleased) and recorded.event.run == run.id
        ]
        assert [one.event.purpose for one in released] == ["graph", "exchange"]  # type: ignore[union-attr]
        assert released[0].at < noted.of(tenant)[0]
        assert released[0].at < noted.of(tenant, "token")[0]


def test_the_log_of_all_that_proves_itself(nights: Nights) -> None:
    sign_checkpoint(nights.running.estate.state, "test")

    result = verified(nights.running.estate.state, [])

    assert result.ok, result.problems


BLOCKED = [
    ("service-account", "mfa", "AADSTS50076", "app registration with a certificate"),
    ("service-account", "ca", "AADSTS53003", "named location"),
    ("app-secret", "expired", "AADSTS7000222", "Add a new one"),
]


@pytest.fixture(scope="module")
def refused(running: Running, noted: Noted) -> list[tuple[Tenant, Run, Run]]:
    tenants = []
    for kind, trouble, _, _ in BLOCKED:
        tenant = running.estate.add_tenant(10, kind)
        for account in tenant.accounts.values():
            account.state = SignInState.MFA_REQUIRED if trouble == "mfa" else SignInState.CONDITIONAL_ACCESS
        for app in tenant.apps.values():
            past = datetime.now(UTC) - timedelta(days=1)
            app.secrets = [type(secret)(secret.value, past) for secret in app.secrets]
        tenants.append(tenant)
    return list(zip(tenants, running.collect(*tenants), running.collect(*tenants), strict=True))


@pytest.mark.parametrize("place", range(3), ids=[trouble for _, trouble, _, _ in BLOCKED])
def test_a_tenant_that_cannot_be_signed_in_to_says_why_and_what_to_do(
    refused: list[tuple[Tenant, Run, Run]], noted: Noted, place: int
) -> None:
    tenant, first, second = refused[place]
    _, _, reason, remedy = BLOCKED[place]

    assert (first.state, first.reason) == ("failed", reason)
    assert remedy in first.detail
    assert {one.outcome for one in first.outcomes} == {"not-started"}
    assert (second.state, second.reason) == ("failed", "credential-rejected")
    assert second.detail.startswith(f"{reason}: ")
    assert remedy in second.detail
    assert len(noted.of(tenant, "token")) == 1


def test_a_second_release_of_a_refused_credential_is_denied_on_record(
    running: Running, refused: list[tuple[Tenant, Run, Run]]
) -> None:
    for tenant, _, second in refused:
        events = [one.event for one in running.estate.state.store.read(credential_stream(TenantId(tenant.id), ENTRA))]
        assert [event.run for event in events if isinstance(event, ReleaseDenied)] == [second.id]


def test_an_error_of_another_actor_arrives_as_it_was_raised_there(running: Running) -> None:
    from ray.exceptions import RayTaskError

    from actors.remote import original

    refusal = SignInFailed(50126, "permanent-credential", "User name or password is wrong.", "Seal the right one.")
    arrived = RayTaskError("next_batch", "Traceback (most recent call last):", refusal).as_instanceof_cause()

    assert isinstance(arrived, RayTaskError)
    assert original(arrived) is refusal


def test_a_mistake_of_ours_tells_its_place_and_never_its_text(running: Running) -> None:
    from ray.exceptions import RayTaskError

    from actors.remote import original, places

    trace = (
        "Traceback\n  File \"/x/actors/collector.py\", line 7, in next_batch\n    raise KeyError\nKeyError: 'p4ssw0rd'"
    )

    failure = original(RayTaskError("next_batch", trace, KeyError("p4ssw0rd")))

    assert str(failure) == (
        "Call next_batch failed with KeyError, which nobody foresaw. The logs in the state directory say where."
    )
    assert places(trace) == ["/x/actors/collector.py:7 next_batch"]


def test_no_process_of_ours_leaves_a_core_file(running: Running) -> None:
    limits = {name: Path(f"/proc/{pid}/limits").read_text() for name, pid in running.pids().items()}

    assert {"vault", "supervisor", "tenant-0", "graph-0", "powershell-0"} <= set(limits)
    for name, text in limits.items():
        core = next(line for line in text.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"], name


DRIVER = """
import sys, msgspec
from actors.system import System
from domain.errors import TenantryError
from domain.settings import Settings
try:
    with System(msgspec.json.decode(sys.stdin.buffer.read(), type=Settings), batch_bytes=int(sys.argv[1])):
        print("joined")
except TenantryError as error:
    print(error)
"""


def joined(running: Running, **changes: str) -> str:
    """What another driver of the same cluster says, whose settings have these changes."""
    import ray

    settings = msgspec.structs.replace(
        running.estate.settings, ray_address=ray.get_runtime_context().gcs_address, **changes
    )
    ended = subprocess.run(  # noqa: S603 - our own program
        (sys.executable, "-c", DRIVER, "4000"),
        input=msgspec.json.encode(settings),
        capture_output=True,
        check=True,
    )
    return ended.stdout.decode().strip()


def test_a_driver_joins_actors_of_its_own_build_and_no_others(running: Running, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        '[[dataset]]\nname = "entra.devices"\nworkload = "graph"\nmode = "full"\npath = "/v1.0/devices"\n'
        'key = "id"\npermission = "Device.Read.All"\n'
    )

    assert joined(running) == "joined"
    said = joined(running, catalog=str(catalog))
    assert "graph-0, powershell-0, supervisor, tenant-0" in said
    assert "run other code, or have other settings" in said
