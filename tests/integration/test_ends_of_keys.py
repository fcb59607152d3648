"""The ends of keys from the command line: a vault key that is replaced, a tenant that is offboarded."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from estate import Estate
from office import Office, at_work, collected, furnished

from crypto.stores import credential_of
from domain.events import (
    RunRequested,
)
from domain.ids import Dataset, TenantId, new_run_id, run_stream


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    with furnished(tmp_path_factory.mktemp("office")) as made:
        yield made


@pytest.fixture
def office(
    estate: Estate, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Office:
    return at_work(estate, tmp_path, capsys, monkeypatch)


def test_a_vault_key_is_rotated_retired_and_destroyed_while_credentials_go_on_signing_in(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    former = office.estate.state.keyholder.health().active
    used = {one["key"]: one["sealed"] for one in office.type("vault", "keys", "--json").json}[former]
    early = office.type("vault", "retire", former)

    said = office.type("vault", "rotate", "--json")

    assert used > 0
    assert (early.code, early.err.count("\n")) == (2, 1)
    new = said.json["key"]
    assert (said.json["former"], said.json["resealed"] + said.json["left_count"]) == (former, used)
    keys = {one["key"]: (one["state"], one["sealed"]) for one in office.type("vault", "keys", "--json").json}
    assert keys[new] == ("active", said.json["resealed"])
    assert keys[former][1] == said.json["left_count"]
    assert office.type("credential", "verify", tenant.id).code == 0
    assert office.set(tenant, office.new_secret(tenant)).code == 0
    for one in said.json["left"]:
        of, slot = credential_of(one["name"])
        assert office.type("credential", "revoke", of, "--slot", slot, "--reason", "never recorded").code == 0
    again = office.type("vault", "rotate", "--resume", "--json")
    assert (again.code, again.json["key"], again.json["left_count"]) == (0, new, 0)
    assert office.type("vault", "destroy", former, "--yes").code == 2, "it is not retired"
    assert office.type("vault", "retire", former).code == 0
    assert office.type("vault", "destroy", former, "--yes").code == 0
    keys = {one["key"]: (one["state"], one["sealed"]) for one in office.type("vault", "keys", "--json").json}
    assert keys[former] == ("destroyed", 0)
    assert office.type("credential", "verify", tenant.id).code == 0


def test_what_cannot_be_read_is_named_where_keys_are_counted(office: Office) -> None:
    stray = office.estate.directory / "secrets" / "credential-OLD copy.secret"
    stray.write_bytes(b"{}")

    said = office.type("vault", "keys", "--json")

    stray.unlink()
    assert said.code == 3
    assert any(one["state"] == "active" for one in said.json)
    assert said.err.count("\n") == 1
    assert "credential-OLD copy" in said.err
    assert office.type("vault", "keys").code == 0


def test_what_was_collected_from_an_offboarded_tenant_cannot_be_opened_and_the_log_still_proves_itself(
    office: Office,
) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    assert collected(office, tenant, "entra.organization").state == "finished"
    select = ["data", "sql", "select count(*) n from entra_organization", "--tenant", tenant.id, "--json"]
    assert office.type(*select).json == [{"n": 1}]
    open_run = new_run_id(datetime.now(UTC), secrets.randbits(32))
    event = RunRequested(run=open_run, tenant=TenantId(tenant.id), datasets=(Dataset("entra.users"),))
    office.estate.state.store.append(
        run_stream(open_run), 0, [event], at=datetime.now(UTC), actor="operator:test", cause=open_run
    )

    said = office.type("tenant", "offboard", tenant.id, "--reason", "left", "--yes", "--json")

    assert (said.code, said.err) == (0, "")
    assert (said.json["state"], said.json["cancelled"], said.json["left"]) == ("offboarded", 1, [])
    assert not [name for name in office.estate.state.secrets.names("") if tenant.id in name]
    refused = office.type(*select)
    assert refused.code != 0
    assert "[{" not in refused.out
    assert office.type("audit", "checkpoint").code == 0
    assert office.type("audit", "verify", "--json").json["ok"]
    assert office.type("credential", "verify", tenant.id).code == 2
    assert office.type("tenant", "offboard", tenant.id, "--reason", "left", "--yes").code == 0
