"""Two identities before one Key Vault: the command line sets and does not read, the keyholder reads."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from office import Office
from strongroom import SETS_ONLY, Strongroom, office_before

from crypto.stores import credential_name
from domain.ids import ENTRA, TenantId
from simulator.world import Tenant


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Strongroom:
    return Strongroom(monkeypatch)


@pytest.fixture
def office(
    room: Strongroom, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Office]:
    with office_before(room, tmp_path, capsys, monkeypatch) as made:
        yield made


def reading(office: Office) -> tuple[int, dict[str, str]]:
    """The doctor's exit code, and what it finds about reading the vault."""
    said = office.type("doctor", "--json")
    (found,) = [one for one in said.json if (one["step"], one["subject"]) == ("secret store", "read")]
    return said.code, found


def test_what_one_identity_may_only_set_is_collected_with_through_the_other(office: Office, tmp_path: Path) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    sealed = tmp_path / "sealed.json"
    new = office.new_secret(tenant)
    jwks = tmp_path / "vault.jwks"
    assert office.type("vault", "public-key", "--out", str(jwks)).code == 0
    identity = ["--tenant", tenant.id, "--kind", "app-secret", "--client-id", new.client_id]
    seal = ["credential", "seal", "--public-key", str(jwks), *identity, "--out", str(sealed)]
    process = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "cli.main", *seal], input=new.secret, text=True, capture_output=True, check=False
    )
    assert process.returncode == 0, process.stderr
    put = office.type("credential", "put", str(sealed), "--no-verify", "--json")
    assert (put.code, put.json["identity"]) == (0, new.client_id), put.err

    place = ["--state", str(office.estate.directory), "--config", str(office.config), "--json"]
    collect = ["collect", tenant.id, "--dataset", "entra.organization", *place]
    process = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "cli.main", *collect], text=True, capture_output=True, check=False
    )

    assert process.returncode == 0, process.stderr
    (run,) = json.loads(process.stdout)
    assert [one["outcome"] for one in run["datasets"]] == ["complete"]
    code, found = reading(office)
    assert (code, found["outcome"]) == (0, "ok")
    assert "refused to this identity, as it should be" in found["detail"]


def test_the_doctor_says_loudly_that_the_command_line_can_read_the_vault(office: Office, room: Strongroom) -> None:
    operator = room.identity("Key Vault Secrets Officer")
    room.enter(operator)
    code, found = reading(office)
    assert (code, found["outcome"]) == (3, "warning")
    assert "CAN READ" in found["detail"]
    assert "setSecret" in found["remedy"]
    room.grant(operator, SETS_ONLY)
    assert reading(office)[1]["outcome"] == "ok"


def test_the_doctor_leaves_no_name_taken_that_it_could_not_free_again(office: Office, room: Strongroom) -> None:
    for grant in ({"set", "delete"}, {"set", "delete", "list"}, {"set"}):
        room.enter(room.identity({**SETS_ONLY, "*": grant}))
        for _ in range(2):
            said = office.type("doctor", "--json")
            assert said.code in (0, 3), said.out


def test_a_replacement_that_does_not_sign_in_stands_where_the_former_one_cannot_be_read(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    wrong = msgspec.structs.replace(office.new_secret(tenant), secret="x" * 40)

    said = office.set(tenant, wrong)

    assert said.code == 1
    assert "cannot be read" in said.err
    assert refused_reads(office, tenant) >= 1


def test_who_may_not_read_what_it_replaces_is_told_that_nothing_counts_until_it_is_recorded(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    with sqlite3.connect(office.estate.directory / "events.db") as events:
        (table,) = events.execute(
            "select name from sqlite_master where type = 'table' and name like '%events%' limit 1"
        ).fetchone()
        full = f"create trigger full before insert on {table} begin select raise(abort, 'full'); end"
        events.execute(full)

    said = office.set(tenant, office.new_secret(tenant), "--no-verify")
    first = office.set(tenant, office.new_secret(tenant), "--slot", "exchange-server")

    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "could not be recorded" in said.err
    assert "Do this again" in said.err
    assert "could not be recorded" in first.err
    assert refused_reads(office, tenant) >= 1
    with sqlite3.connect(office.estate.directory / "events.db") as events:
        events.execute("drop trigger full")
    assert office.set(tenant, office.new_secret(tenant), "--no-verify").code == 0


def refused_reads(office: Office, tenant: Tenant) -> int:
    """How often the vault refused to show the tenant's envelope."""
    place = f"/secrets/{credential_name(TenantId(tenant.id), ENTRA)}/"
    notes = office.estate.simulator.world.requests
    return sum(1 for _, route, path, status in notes if (route, path, status) == ("keyvault.get", place, 403))
