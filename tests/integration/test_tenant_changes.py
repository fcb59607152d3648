"""What is registered of a tenant: changed later, and finished when it was interrupted."""

from __future__ import annotations

import json

from desk import CONTOSO, STRANGER, Desk

from cli.command import now
from domain.events import TenantRegistered
from domain.ids import tenant_id, tenant_stream

SERVER = ("--exchange-server", "mail.contoso.com:5986/PowerShell", "--exchange-auth", "negotiate")


def shown(desk: Desk, tenant: str = CONTOSO) -> dict[str, object]:
    found: dict[str, object] = json.loads(desk.type("tenant", "show", tenant, "--json").out)
    return found


def test_an_exchange_server_can_be_declared_later_and_taken_back(desk: Desk) -> None:
    assert "declares no Exchange Server" in desk.refused(2, "collect", CONTOSO, "-d", "onprem.mailboxes", "--detach")

    assert desk.type("tenant", "change", CONTOSO, *SERVER, "--name", "Contoso Ltd").code == 0

    found = shown(desk)
    assert (found["name"], found["domain"]) == ("Contoso Ltd", "contoso.com")
    assert found["exchange_server"] == {
        "host": "mail.contoso.com",
        "port": 5986,
        "path": "PowerShell",
        "auth": "negotiate",
        "tls": True,
    }
    assert desk.type("collect", CONTOSO, "-d", "onprem.mailboxes", "--detach").code == 0
    assert desk.type("tenant", "change", CONTOSO, "--no-exchange-server").code == 0
    assert shown(desk)["exchange_server"] is None
    changed = [one for one in json.loads(desk.type("audit", "log", "--json").out) if one["event"] == "tenant-changed/1"]
    assert [one["cause"] for one in changed] == ["tenant change", "tenant change"]


def test_what_does_not_change_is_no_event(desk: Desk) -> None:
    last = desk.opened().store.last_position()
    assert "Nothing to change" in desk.type("tenant", "change", CONTOSO, "--domain", "contoso.com").out
    assert desk.opened().store.last_position() == last


def test_what_is_wrong_changes_nothing(desk: Desk) -> None:
    before = shown(desk)
    assert "no cloud 'moon'" in desk.refused(2, "tenant", "change", CONTOSO, "--cloud", "moon")
    assert "not a domain" in desk.refused(2, "tenant", "change", CONTOSO, "--domain", "contoso")
    assert "Give one of both" in desk.refused(2, "tenant", "change", CONTOSO, *SERVER, "--no-exchange-server")
    assert f"no tenant '{STRANGER}'" in desk.refused(2, "tenant", "change", STRANGER, "--name", "x")
    assert shown(desk) == before


def test_a_registration_that_was_interrupted_before_there_was_a_data_key_is_finished_by_doing_it_again(
    desk: Desk,
) -> None:
    half = TenantRegistered(tenant=tenant_id(STRANGER), name="fabrikam.com", domain="fabrikam.com", cloud="public")
    desk.opened().store.append(
        tenant_stream(tenant_id(STRANGER)), 0, [half], at=now(), actor="operator:ann", cause="tenant add"
    )
    assert shown(desk, STRANGER)["data_key"] is None

    assert "already exists" in desk.refused(2, "tenant", "add", STRANGER, "--domain", "other.com")
    assert desk.type("tenant", "add", STRANGER, "--domain", "fabrikam.com").code == 0

    assert shown(desk, STRANGER)["data_key"]
    assert "already exists" in desk.refused(2, "tenant", "add", STRANGER, "--domain", "fabrikam.com")


def test_a_plan_is_shown_until_something_of_it_is_changed(desk: Desk) -> None:
    assert "the whole catalog, every 24 h" in desk.type("tenant", "plan", CONTOSO).out
    assert desk.type("tenant", "plan", CONTOSO, "-d", "entra.users", "--every", "6").code == 0
    last = desk.opened().store.last_position()
    assert "entra.users, every 6 h" in desk.type("tenant", "plan", CONTOSO).out
    assert json.loads(desk.type("tenant", "plan", CONTOSO, "--json").out) == {
        "datasets": ["entra.users"],
        "cadence_seconds": 6 * 3600,
    }
    assert desk.opened().store.last_position() == last

    assert desk.type("tenant", "plan", CONTOSO, "--every", "12").code == 0
    assert (shown(desk)["datasets"], shown(desk)["cadence_seconds"]) == (["entra.users"], 12 * 3600)
    assert desk.type("tenant", "plan", CONTOSO, "--whole-catalog").code == 0
    assert (shown(desk)["datasets"], shown(desk)["cadence_seconds"]) == ([], 12 * 3600)
    assert "Give one of both" in desk.refused(2, "tenant", "plan", CONTOSO, "--whole-catalog", "-d", "entra.users")
