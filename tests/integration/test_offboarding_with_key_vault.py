"""The end of a tenant whose keys and envelopes are in a Key Vault: what goes, what is kept, and for how long."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from driver import ended
from office import Office, collected
from running import TICK_SECONDS, killed
from strongroom import OFFBOARDS, Strongroom, office_before

from crypto.stores import credential_name, data_key_name
from domain.events import TenantOffboarded, VaultKeyDestroyed
from domain.ids import ENTRA, VAULT_KEYS, TenantId, tenant_stream
from simulator.world import Fault, Tenant

DATASET = "entra.organization"


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Strongroom:
    return Strongroom(monkeypatch)


@pytest.fixture
def office(
    room: Strongroom, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Office]:
    with office_before(room, tmp_path, capsys, monkeypatch) as made:
        yield made


def enrolled(office: Office, room: Strongroom) -> Tenant:
    """Collected once, with two versions of its credential; whoever types next may offboard."""
    tenant = office.estate.add_tenant(5, "app-secret")
    assert office.set(tenant, office.new_secret(tenant), "--no-verify").code == 0
    assert collected(office, tenant, DATASET).state == "finished"
    room.enter(room.identity(OFFBOARDS))
    return tenant


def offboard(office: Office, tenant: Tenant) -> list[str]:
    return ["tenant", "offboard", tenant.id, "--reason", "left", "--yes", "--json"]


def stored(office: Office, room: Strongroom, tenant: Tenant) -> tuple[set[str], set[str]]:
    """Names of the tenant that are there, and names that are deleted and can be recovered."""
    with room.looked_into(office.estate.simulator) as client:
        present = {one.name or "" for one in client.list_properties_of_secrets()}
        deleted = {one.name or "" for one in client.list_deleted_secrets()}
    return {name for name in present if tenant.id in name}, {name for name in deleted if tenant.id in name}


def names(tenant: Tenant) -> set[str]:
    of = TenantId(tenant.id)
    return {credential_name(of, ENTRA), data_key_name(of)}


def on_record(office: Office, tenant: Tenant) -> list[TenantOffboarded]:
    events = [one.event for one in office.estate.state.store.read(tenant_stream(TenantId(tenant.id)))]
    return [one for one in events if isinstance(one, TenantOffboarded)]


def test_nothing_of_an_offboarded_tenant_is_left_in_the_vault_and_the_log_still_proves_itself(
    office: Office, room: Strongroom
) -> None:
    tenant = enrolled(office, room)
    select = ["data", "sql", "select count(*) n from entra_organization", "--tenant", tenant.id, "--json"]
    assert office.type(*select).json == [{"n": 1}]
    assert stored(office, room, tenant) == (names(tenant), set())

    said = office.type(*offboard(office, tenant))

    assert (said.code, said.err) == (0, "")
    assert (said.json["state"], said.json["left"], said.json["retained"]) == ("offboarded", [], [])
    assert stored(office, room, tenant) == (set(), set())
    refused = office.type(*select)
    assert refused.code != 0
    assert "offboarded" in refused.err
    assert office.type("audit", "checkpoint").code == 0
    assert office.type("audit", "verify", "--json").json["ok"]
    assert office.type(*offboard(office, tenant)).code == 0
    assert on_record(office, tenant) == [TenantOffboarded(reason="left")]


@pytest.mark.parametrize("why", ["purge-protected", "purge-refused"])
def test_what_cannot_be_purged_is_told_and_recorded_with_its_end_and_purged_when_it_can_be(
    office: Office, room: Strongroom, why: str
) -> None:
    tenant = enrolled(office, room)
    room.home.settings |= {"key_vault_retention_days": 7, "key_vault_purge_protection": why == "purge-protected"}
    if why == "purge-refused":
        room.enter(room.identity({**OFFBOARDS, "*": {"delete", "list"}}))

    said = office.type(*offboard(office, tenant))

    assert (said.code, said.err) == (3, "")
    assert stored(office, room, tenant) == (set(), names(tenant))
    (recorded,) = on_record(office, tenant)
    assert {one.name for one in recorded.retained} == names(tenant) == {one["name"] for one in said.json["retained"]}
    for one in recorded.retained:
        assert one.why == why
        assert one.until is not None
        assert timedelta(days=6) < one.until - datetime.now(UTC) <= timedelta(days=7)
    again = office.type("tenant", "offboard", tenant.id, "--reason", "left", "--yes")
    assert (again.code, on_record(office, tenant)) == (3, [recorded])
    assert again.out.count("still recoverable until") == 2

    room.home.settings["key_vault_purge_protection"] = False
    room.enter(room.identity(OFFBOARDS))

    assert office.type(*offboard(office, tenant)).code == 0
    assert stored(office, room, tenant) == (set(), set())
    assert on_record(office, tenant) == [recorded, TenantOffboarded(reason="left")]


def test_a_destroyed_vault_key_that_the_vault_keeps_is_told_and_recorded_until_it_is_purged(
    office: Office, room: Strongroom
) -> None:
    former = office.estate.state.keyholder.health().active
    assert office.type("vault", "rotate").code == 0
    assert office.type("vault", "retire", former).code == 0
    room.home.settings |= {"key_vault_retention_days": 7, "key_vault_purge_protection": True}

    kept = office.type("vault", "destroy", former, "--yes", "--json")
    said = office.type("vault", "destroy", former, "--yes")
    room.home.settings["key_vault_purge_protection"] = False
    purged = office.type("vault", "destroy", former, "--yes", "--json")

    assert (kept.code, kept.json["state"], kept.json["retained"]["why"]) == (3, "destroyed", "purge-protected")
    assert said.code == 3
    assert f"Vault key {former} is deleted." in said.out
    assert "still recoverable until" in said.out
    assert (purged.code, purged.json["retained"]) == (0, None)
    recorded = [one.event for one in office.estate.state.store.read(VAULT_KEYS)]
    ends = [one for one in recorded if isinstance(one, VaultKeyDestroyed)]
    assert [one.retained is not None and one.retained.why for one in ends] == [False, "purge-protected", False]


def test_an_offboarding_that_was_killed_in_the_middle_is_finished_by_the_next(office: Office, room: Strongroom) -> None:
    tenant = enrolled(office, room)
    world = office.estate.simulator.world
    world.faults[room.home.id, "keyvault.purge"] = [Fault("slow", after=1, options={"seconds": 5})]
    place = ["--state", str(office.estate.directory), "--config", str(office.config)]
    process = subprocess.Popen([sys.executable, "-m", "cli.main", *offboard(office, tenant), *place])  # noqa: S603
    first = f"/deletedsecrets/{credential_name(TenantId(tenant.id), ENTRA)}"
    while not any(note[1:] == ("keyvault.purge", first, 204) for note in list(world.requests)):
        assert not ended(process, TICK_SECONDS)
    killed(process.pid)
    process.wait()

    assert stored(office, room, tenant) == ({data_key_name(TenantId(tenant.id))}, set())
    assert on_record(office, tenant) == []
    assert office.type(*offboard(office, tenant)).code == 0
    assert stored(office, room, tenant) == (set(), set())
    assert on_record(office, tenant) == [TenantOffboarded(reason="left")]
    assert office.type("audit", "verify", "--json").json["ok"]


def test_whoever_may_only_set_cannot_offboard_and_is_told_what_it_takes(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")

    said = office.type("tenant", "offboard", tenant.id, "--reason", "left", "--yes")

    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "delete secret" in said.err
    assert "docs/sealing.md" in said.err
