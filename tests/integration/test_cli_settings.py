"""`tenantry config show`, and settings that are refused: where each value came from, and nothing that signs in."""

from __future__ import annotations

import json

import pytest
from desk import CONTOSO, Desk

from cli.config import KEYS
from domain.settings import CLOUDS

SECRET = "s3cr3t"
SIGNING_IN = {
    "TENANTRY_EVENTSTORE_URL": f"postgresql://reader:pa/{SECRET}@db.example/events",
    "TENANTRY_SECRETS_URL": f"https://contoso.vault.azure.net?sig={SECRET}",
    "TENANTRY_BATCHES_URL": f"az://container/prefix?sv=1&sig={SECRET}",
    "TENANTRY_VAULT_CUSTODY": f"https://user:p@{SECRET}@contoso.vault.azure.net/keys/vault",
    "TENANTRY_SECRETS_AUTHORITY": f"https://login.example/#{SECRET}",
}


def signing_in(desk: Desk) -> None:
    for variable, value in SIGNING_IN.items():
        desk.monkeypatch.setenv(variable, value)
    lines = [
        f'{name} = "https://user:{SECRET}@{name}.example"' for name in ("login", "graph", "exchange", "compliance")
    ]
    (desk.state / "tenantry.toml").write_text("\n".join(["[ray]", "tenant_actors = 3", "[clouds.lab]", *lines]))


def test_every_setting_is_shown_with_where_it_came_from(desk: Desk) -> None:
    (desk.state / "tenantry.toml").write_text("[ray]\ntenant_actors = 3\n")
    desk.monkeypatch.setenv("TENANTRY_BATCHES_URL", "s3://bucket/prefix")

    said = desk.type("config", "show", "--json", "--state", str(desk.state))

    assert (said.code, said.err) == (0, "")
    rows = json.loads(said.out)
    assert all([*row] == ["setting", "value", "from"] for row in rows)
    shown = {row["setting"]: (row["value"], row["from"]) for row in rows}
    assert len(shown) == len(rows)
    assert shown.keys() >= {"state", *(key for key, _ in KEYS.values())}
    assert {f"clouds.{name}.graph" for name in CLOUDS} <= shown.keys()
    assert shown["state"] == (str(desk.state), "--state")
    assert shown["ray.tenant_actors"] == ("3", str(desk.state / "tenantry.toml"))
    assert shown["batches.url"] == ("s3://bucket/prefix", "TENANTRY_BATCHES_URL")
    assert shown["eventstore.url"] == (f"sqlite://{desk.state}/events.db", "default")
    assert shown["clouds.public.graph"] == ("https://graph.microsoft.com", "default")


def test_people_get_the_settings_as_a_table(desk: Desk) -> None:
    said = desk.type("config", "show")

    assert (said.code, said.err) == (0, "")
    heading, *lines = said.out.splitlines()
    assert heading.split() == ["setting", "value", "from"]
    assert ["ray.tenant_actors", "2", "default"] in [line.split() for line in lines]


@pytest.mark.parametrize("option", [[], ["--json"]], ids=["text", "json"])
def test_what_signs_in_is_withheld_from_the_settings(desk: Desk, option: list[str]) -> None:
    signing_in(desk)

    said = desk.type("config", "show", *option)

    assert (said.code, said.err) == (0, "")
    assert SECRET not in said.out
    for whole in ("postgresql://***@db.example/events", "az://container/prefix?sv=***&sig=***", "https://***@graph."):
        assert whole in said.out


REFUSED: dict[str, tuple[dict[str, str], list[str], str]] = {
    "the event store": (
        {"TENANTRY_EVENTSTORE_URL": f"postgresql://u:p/{SECRET}@db.example/events"},
        ["tenant", "list"],
        "postgresql://***@db.example/events",
    ),
    "the secret store": (
        {"TENANTRY_SECRETS_URL": f"https://vault.example/x?sig={SECRET}"},
        ["tenant", "list"],
        "https://vault.example/x?sig=***",
    ),
    "the batch store": (
        {"TENANTRY_BATCHES_URL": f"ftp://u:{SECRET}@host/x"},
        ["data", "datasets"],
        "ftp://***@host/x",
    ),
    "the custody of the vault's keys": (
        {"TENANTRY_VAULT_CUSTODY": f"https://u:{SECRET}@vault.example/keys/x"},
        ["init", "--state", "new"],
        "https://***@vault.example/keys/x",
    ),
    "a URL that is none": (
        {"TENANTRY_BATCHES_URL": f"file://u:{SECRET}@host/x"},
        ["tenant", "list"],
        "file://***@host/x",
    ),
    "a text that is no URL": (
        {"TENANTRY_EVENTSTORE_URL": f"host=db.example password={SECRET}"},
        ["tenant", "list"],
        "'***' is not a URL",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_withholds_what_signs_in_to(case: str, desk: Desk) -> None:
    variables, words, shown = REFUSED[case]
    for variable, value in variables.items():
        desk.monkeypatch.setenv(variable, value)

    said = desk.type(*words)

    assert said.code != 0
    assert SECRET not in said.out + said.err
    assert shown in said.err


def test_a_cloud_that_is_refused_is_shown_without_what_signs_in_to_it(desk: Desk) -> None:
    hosts = [
        f'{name} = "https://u:{SECRET}@host/x?sig={SECRET}"' for name in ("login", "graph", "exchange", "compliance")
    ]
    (desk.directory / "lab.toml").write_text("\n".join(["[clouds.lab]", *hosts]))

    refused = desk.refused(2, "tenant", "show", CONTOSO, "--config", "lab.toml")

    assert SECRET not in refused
    assert "https://***@host/x?sig=***" in refused
