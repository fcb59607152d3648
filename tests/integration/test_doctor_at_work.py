"""The doctor before tenants that are well, and before tenants that are not."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from desk import STRANGER, Desk
from estate import Estate
from office import Office, Said, at_work, furnished

from cli.main import main
from collectors.egress import hindrance, remedy_for
from domain.errors import ConnectionLost
from simulator.world import GRAPH, SignInState


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    with furnished(tmp_path_factory.mktemp("office")) as made:
        yield made


@pytest.fixture
def office(
    estate: Estate, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Office:
    return at_work(estate, tmp_path, capsys, monkeypatch)


STEPS_FINE = ["settings", "state directory", "secret store", "event store", "keyholder"]


def test_the_doctor_finds_nothing_where_nothing_is_wrong(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-certificate")

    said = office.type("doctor", tenant.id, "--json")

    assert (said.code, said.err) == (0, ""), said.out
    assert {one["outcome"] for one in said.json} == {"ok"}
    assert list(dict.fromkeys(one["step"] for one in said.json)) == [
        *STEPS_FINE,
        "tenant",
        "credential",
        "authorities",
        "services",
        "sign-in",
        "permission",
    ]


def test_the_doctor_names_the_step_that_fails_and_what_to_do(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "service-account")
    office.block(tenant, SignInState.CONDITIONAL_ACCESS)

    said = office.type("doctor", tenant.id, "--json")

    assert said.code == 1
    failed = [one for one in said.json if one["outcome"] == "failed"]
    assert {(one["step"], one["subject"]) for one in failed} == {
        ("MFA and Conditional Access", "graph"),
        ("MFA and Conditional Access", "exchange"),
    }
    assert "named location" in failed[0]["detail"]
    assert "This machine connects from" in failed[0]["remedy"]
    assert any("retiring sign-in with passwords" in one["detail"] for one in said.json)


def test_the_doctor_names_permissions_and_licences_that_are_missing(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    tenant.skus = []
    for app in tenant.apps.values():
        app.roles = {GRAPH: ("Directory.Read.All", "Reports.Read.All")}

    said = office.type("doctor", tenant.id, "--json")

    assert said.code == 3
    warned = {(one["step"], one["subject"]) for one in said.json if one["outcome"] == "warning"}
    assert ("permission", "audit.sign-ins") in warned
    assert ("licence", "audit.sign-ins") in warned
    assert ("permission", "entra.users") not in warned


def looked_at(said: Said, *steps: str) -> list[tuple[str, str, str]]:
    return [(one["step"], one["subject"], one["outcome"]) for one in said.json if one["step"] in steps]


OF_TENANT = ("sign-in", "consent", "roles", "permission", "licence")


def test_an_application_that_nobody_consented_to_fails_at_consent(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    for app in tenant.apps.values():
        app.consented = set()

    said = office.type("doctor", tenant.id, "--json")

    assert said.code == 1
    assert looked_at(said, *OF_TENANT) == [("consent", "graph", "failed"), ("consent", "exchange", "failed")]
    assert "AADSTS65001" in said.out
    assert "Consent as administrator." in said.out


def test_a_service_that_alone_lacks_consent_leaves_the_others_examined(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    office.estate.fail(tenant, "token", "aadsts", after=1, code=65001)

    said = office.type("doctor", tenant.id, "--json")

    assert said.code == 1
    assert looked_at(said, *OF_TENANT) == [
        ("sign-in", "graph", "ok"),
        ("consent", "exchange", "failed"),
        ("permission", "", "ok"),
    ]


def test_a_role_that_exchange_misses_fails_at_roles(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    tenant.settings["exchange_role"] = False

    said = office.type("doctor", tenant.id, "--json")

    assert said.code == 3
    assert looked_at(said, *OF_TENANT) == [
        ("sign-in", "graph", "ok"),
        ("roles", "exchange", "warning"),
        *(
            ("permission", f"exchange.{one}", "warning")
            for one in ("mailboxes", "transport-rules", "mailbox-statistics")
        ),
        ("permission", "", "ok"),
    ]
    (roles,) = [one for one in said.json if one["step"] == "roles"]
    assert "the Entra role Global Reader. Grant it in this tenant" in roles["detail"]


def test_a_licence_that_is_missing_is_named_with_the_datasets_that_need_it(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    tenant.skus = []

    said = office.type("doctor", tenant.id, "--json")

    assert said.code == 3
    assert looked_at(said, "sign-in") == [("sign-in", "graph", "ok"), ("sign-in", "exchange", "ok")]
    needs = {one["subject"]: one["detail"] for one in said.json if one["step"] == "licence"}
    assert needs == {"audit.sign-ins": "needs Microsoft Entra ID P1"} | dict.fromkeys(
        ("exchange.mailboxes", "exchange.transport-rules", "exchange.mailbox-statistics"), "needs Exchange Online"
    )
    assert looked_at(said, "permission") == [("permission", "", "ok")]


@pytest.mark.parametrize(
    ("service", "route", "other"),
    [("graph", "subscribed-skus", "exchange"), ("exchange", "exchange.get-organizationconfig", "graph")],
)
def test_a_service_that_alone_is_away_is_not_said_to_lack_anything(
    office: Office, service: str, route: str, other: str
) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    office.estate.fail(tenant, route, "reset", times=None)

    said = office.type("doctor", tenant.id, "--json")

    assert said.code == 1
    wrong = [(one["step"], one["subject"], one["outcome"]) for one in said.json if one["outcome"] != "ok"]
    assert wrong == [("services", service, "failed")]
    assert looked_at(said, *OF_TENANT) == [("sign-in", other, "ok"), ("permission", "", "ok")]
    assert "was lost" in said.out
    verified = office.type("credential", "verify", tenant.id, "--json")
    assert {one["resource"]: one["readable"] for one in verified.json["resources"]} == {service: None, other: True}
    assert verified.code == 3


def test_a_host_that_alone_is_away_is_named_and_nobody_signs_in(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    config = tomllib.loads(office.config.read_text())
    config["clouds"]["simulator"]["exchange"] = "https://localhost:1"
    office.config.write_bytes(msgspec.toml.encode(config))

    said = office.type("doctor", tenant.id, "--json")

    assert said.code == 1
    assert looked_at(said, "services", "sign-in") == [
        ("services", "simulator login", "ok"),
        ("services", "simulator graph", "ok"),
        ("services", "simulator exchange", "failed"),
        ("sign-in", "", "skipped"),
    ]
    assert office.asked(tenant) == 0


def test_the_doctor_skips_what_has_no_ground(office: Office, tmp_path: Path) -> None:
    office.capsys.readouterr()

    code = main(["doctor", "--state", str(tmp_path / "nowhere"), "--json"])

    assert code == 1
    outcomes = [(one["step"], one["outcome"]) for one in json.loads(office.capsys.readouterr().out)]
    assert outcomes[:3] == [("settings", "ok"), ("state directory", "failed"), ("secret store", "skipped")]
    assert {outcome for _, outcome in outcomes[2:]} == {"skipped"}


def test_the_doctor_lists_the_hosts_to_allow(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    office.type("tenant", "plan", tenant.id, "-d", "entra.users")

    said = office.type("doctor", tenant.id, "--egress", "--json")

    assert said.code == 0
    assert [(one["host"], one["purpose"]) for one in said.json] == [("localhost", "login"), ("localhost", "graph")]
    assert office.asked(tenant) == 0


def test_the_hosts_to_allow_for_all_tenants_have_each_exchange_server_once(desk: Desk) -> None:
    add = ("tenant", "add", "--exchange-server")
    assert desk.type(*add, "mail.contoso.com:5986", STRANGER, "--domain", "contoso.com").code == 0

    listed = json.loads(desk.type("doctor", "--egress", "--json").out)

    assert [(one["host"], one["port"]) for one in listed if one["purpose"] == "exchange-server"] == [
        ("mail.contoso.com", 5986)
    ]
    assert [one["host"] for one in listed].count("login.microsoftonline.com") == 1


def test_the_doctor_tells_a_name_that_does_not_resolve_from_a_port_that_nobody_listens_on() -> None:
    assert "does not resolve" in str(hindrance("https://no-such-host.invalid", ""))
    assert "Connection refused" in str(hindrance("https://localhost:1", ""))


@pytest.mark.parametrize(
    ("why", "remedy"), [("is not trusted", "ca_bundle"), ("port 1: Connection refused", "--egress")], ids=str
)
def test_what_hinders_a_connection_has_its_own_remedy(why: str, remedy: str) -> None:
    assert remedy in remedy_for(ConnectionLost("login", f"localhost {why}"))


def test_the_doctor_says_that_a_certificate_is_not_trusted(office: Office) -> None:
    assert "is not trusted" in str(hindrance(office.estate.simulator.url, ""))
    assert hindrance(office.estate.simulator.url, str(office.estate.simulator.ca_file)) is None
