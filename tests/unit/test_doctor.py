"""The doctor's order of steps, and where it says connections go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.findings import ResourceFound, Verification
from cli.checkup import secret_store, unknown_tenant
from cli.doctor import STEPS, services_found
from collectors.catalog import load_catalog
from collectors.egress import Destination, address_hint, destinations, hindrance, key_vaults, source_address
from collectors.permissions import Claims, claims_of, granted, licences_in, licensed, sufficient
from crypto.stores import MemorySecretStore
from domain.errors import NotAllowed
from domain.events import ExchangeServer
from domain.ids import EXCHANGE_SERVER, Dataset, RunId
from domain.settings import CLOUDS, Settings

CATALOG = load_catalog()
RUN = RunId("20261122T203000-0a1b2c3d")


def test_a_step_needs_only_what_was_looked_at_before() -> None:
    seen: set[str] = set()
    for step in STEPS:
        assert seen >= {*step.needs}
        seen.add(step.name)


def test_the_hosts_to_allow_are_those_that_the_plan_needs() -> None:
    server = ExchangeServer(host="mail.contoso.com", port=5986)

    assert destinations(CLOUDS["public"], ["graph"], None) == [
        Destination("login.microsoftonline.com", 443, "login"),
        Destination("graph.microsoft.com", 443, "graph"),
        Destination("reports*.office.com", 443, "download"),
    ]
    assert destinations(CLOUDS["usgov"], ["exchange"], None) == [
        Destination("login.microsoftonline.us", 443, "login"),
        Destination("outlook.office365.us", 443, "exchange"),
    ]
    assert destinations(CLOUDS["public"], ["exchange-server"], server) == [
        Destination("mail.contoso.com", 5986, "exchange-server")
    ]


def test_the_address_that_leads_to_this_machine_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)

    assert source_address("127.0.0.1", 443) == "127.0.0.1"
    assert "which is private" in address_hint("127.0.0.1", 443)


def test_behind_a_proxy_its_address_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.contoso.com:3128")

    assert "proxy" in address_hint("graph.example.com", 443)
    assert hindrance("https://graph.example.com", "") == "through the proxy that the environment names"


@pytest.mark.parametrize("dataset", [name for name, one in CATALOG.items() if one.workload == "graph"])
def test_the_permission_that_a_dataset_names_is_enough_for_it(dataset: str) -> None:
    definition = CATALOG[Dataset(dataset)]

    assert granted(definition, Claims(roles=(definition.permission,))) == "granted"
    assert granted(definition, Claims(scp=f"openid {definition.permission}")) == "granted"
    assert granted(definition, Claims(roles=("Mail.Read",))) == "missing"
    assert granted(definition, None) == "unknown"


def test_a_wider_permission_includes_a_narrower_one() -> None:
    assert "Directory.Read.All" in sufficient("User.Read.All")
    assert "User.ReadWrite.All" in sufficient("User.Read.All")
    assert "User.Read.All" not in sufficient("Directory.Read.All")


def test_licences_are_told_by_the_plans_of_working_subscriptions() -> None:
    rows = [
        b'{"skuPartNumber":"SPB","capabilityStatus":"Suspended","servicePlans":[{"servicePlanName":"AAD_PREMIUM"}]}',
        b'{"skuPartNumber":"OTHER","capabilityStatus":"Enabled","servicePlans":[{"servicePlanName":"EXCHANGE_S_DESKLESS"}]}',
        b"not a row",
    ]
    names = licences_in(rows)

    assert names == ("EXCHANGE_S_DESKLESS", "OTHER")
    assert licensed("Exchange Online", names) == "granted"
    assert licensed("Microsoft Entra ID P1", names) == "missing"
    assert licensed("Microsoft Entra ID P1", None) == "unknown"
    assert licensed("Something of a user's own", names) == "unknown"
    assert licensed("", None) == "granted"


@given(token=st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*", fullmatch=True)))
def test_a_token_that_shows_nothing_is_no_error(token: str) -> None:
    found = claims_of(token)

    assert found is None or isinstance(found.permissions, tuple)


class WriteOnly(MemorySecretStore):
    """A Key Vault's answer to an identity that may set secrets and nothing else."""

    def get(self, name: str) -> bytes:
        raise NotAllowed(f"read secret {name}", "the Key Vault refuses it", "Grant it.")

    def delete(self, name: str) -> None:
        raise NotAllowed(f"delete secret {name}", "the Key Vault refuses it", "Grant it.")


@pytest.mark.parametrize(
    ("store", "url", "outcomes"),
    [
        (MemorySecretStore(), "file:///secrets", ["ok", "ok"]),
        (MemorySecretStore(), "https://contoso.vault.azure.net", ["ok", "warning"]),
        (WriteOnly(), "https://contoso.vault.azure.net", ["ok", "ok", "ok"]),
    ],
    ids=["files", "a vault that is open to its operators", "a vault that is not"],
)
def test_an_operator_should_write_a_key_vault_and_not_read_it(
    store: MemorySecretStore, url: str, outcomes: list[str]
) -> None:
    patient: Any = SimpleNamespace(state=SimpleNamespace(secrets=store), settings=SimpleNamespace(secrets=url))

    found = list(secret_store(patient))

    assert [one.outcome for one in found] == outcomes
    assert [one.subject for one in found] == ["write", "read", "delete"][: len(found)]


def test_the_secret_store_is_shown_without_what_signs_in_to_it() -> None:
    secrets = "https://user:p/ss@contoso.vault.azure.net?sig=abc"
    patient: Any = SimpleNamespace(
        state=SimpleNamespace(secrets=WriteOnly()), settings=SimpleNamespace(secrets=secrets)
    )

    assert next(secret_store(patient)).detail == "https://***@contoso.vault.azure.net?sig=***"


def test_an_exchange_server_that_is_away_is_no_refused_sign_in() -> None:
    away = ResourceFound(
        resource="exchange-server", slot=EXCHANGE_SERVER, outcome="unavailable", detail="It answered 503."
    )
    nobody: Any = None

    found = services_found(nobody, Verification(id=RUN, tenant="", resources=(away,), datasets=()))

    assert [(one.step, one.subject, one.outcome, one.detail) for one in found] == [
        ("services", "exchange-server", "failed", "It answered 503.")
    ]


def test_an_answer_that_is_no_text_is_none_of_a_login_service() -> None:
    for body in (b"<html>", b'{"error": "\xff"}', b"[]"):
        assert unknown_tenant(body) == "an answer that is none of a login service"
    assert licences_in([b'{"skuPartNumber": "\xff"}', b'{"skuPartNumber": "SPB"}']) == ("SPB",)


def test_the_key_vaults_of_our_own_processes_are_among_the_hosts_to_allow() -> None:
    files = Settings(state="/s", eventstore="", secrets="file:///s/secrets", batches="", clouds={})
    vaults = msgspec.structs.replace(
        files, secrets="https://ours.vault.azure.net", custody="https://keys.vault.azure.net/keys/tenantry"
    )
    assert key_vaults(files) == []
    assert key_vaults(vaults) == [
        Destination("login.microsoftonline.com", 443, "login"),
        Destination("ours.vault.azure.net", 443, "key-vault"),
        Destination("keys.vault.azure.net", 443, "key-vault"),
    ]
