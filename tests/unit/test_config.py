"""Where a setting comes from, and what is refused before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.config import KEYS, load
from domain.errors import Malformed, TenantryError, Unreadable
from domain.settings import CLOUDS

HOSTS = "".join(
    f'{name} = "https://localhost:1"\n' for name in ("login", "graph", "exchange", "compliance", "activity")
)


def write(directory: Path, text: str) -> None:
    (directory / "tenantry.toml").write_text(text)


def test_without_a_file_everything_lies_in_the_state_directory(tmp_path: Path) -> None:
    effective = load(None, None, {}, tmp_path)
    state = tmp_path.resolve() / ".tenantry"
    assert effective.settings.state == str(state)
    assert effective.settings.eventstore == f"sqlite://{state}/events.db"
    assert effective.settings.secrets == f"file://{state}/secrets"
    assert set(effective.origins.values()) == {"default"}
    assert effective.settings.clouds == CLOUDS


def test_the_option_wins_over_the_variable_and_the_variable_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, 'state = "from-file"\n[ray]\naddress = "auto"\ntenant_actors = 3\n')
    of_file = load(None, None, {}, tmp_path)
    assert of_file.settings.state == str(tmp_path.resolve() / "from-file")
    assert (of_file.settings.ray_address, of_file.settings.tenant_actors) == ("auto", 3)
    assert of_file.origins["ray.address"] == str(tmp_path / "tenantry.toml")
    variables = {"TENANTRY_STATE": "from-variable", "TENANTRY_RAY_ADDRESS": "local", "TENANTRY_RAY_TENANT_ACTORS": "4"}
    of_variables = load(None, None, variables, tmp_path)
    assert of_variables.settings.state == str(tmp_path.resolve() / "from-variable")
    assert (of_variables.settings.ray_address, of_variables.settings.tenant_actors) == ("local", 4)
    assert of_variables.origins["ray.address"] == "TENANTRY_RAY_ADDRESS"
    of_option = load("from-option", None, variables, tmp_path)
    assert of_option.settings.state == str(tmp_path.resolve() / "from-option")
    assert of_option.origins["state"] == "--state"


def test_the_state_directory_has_a_configuration_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    write(tmp_path / "state", f"[clouds.lab]\n{HOSTS}ca_bundle = 'ca.pem'\n")
    write(tmp_path, '[ray]\naddress = "auto"\n')
    effective = load("state", None, {}, tmp_path)
    assert effective.settings.clouds["lab"].ca_bundle == str(tmp_path / "ca.pem")
    assert effective.settings.ray_address == "local"


def test_every_setting_has_a_variable(tmp_path: Path) -> None:
    for key, default in KEYS.values():
        variable = f"TENANTRY_{key.replace('.', '_').upper()}"
        value = default.format(state="/elsewhere") or "https://other"
        assert load(None, None, {variable: value}, tmp_path).origins[key] == variable


REFUSED: dict[str, tuple[str, type[TenantryError], str]] = {
    "no TOML": ("state = [", Unreadable, "tenantry.toml"),
    "not text": ("\udcff", Unreadable, "tenantry.toml"),
    "an unknown section": ("[nonsense]\nx = 1\n", Unreadable, "nonsense"),
    "an unknown setting": ('[ray]\nadress = "auto"\n', Malformed, "ray.adress"),
    "a value of the wrong type": ("[eventstore]\nurl = 5\n", Unreadable, "tenantry.toml"),
    "a cloud without hosts": ('[clouds.lab]\nlogin = "https://x"\n', Unreadable, "clouds"),
    "a host without TLS": (f"[clouds.lab]\n{HOSTS.replace('https', 'http')}", Malformed, "login of cloud lab"),
    "a host in half a bracket": (
        f"[clouds.lab]\n{HOSTS.replace('localhost', '[abc')}",
        Malformed,
        "login of cloud lab",
    ),
    "a relative URL": ('[secrets]\nurl = "file://here"\n', Malformed, "file://here"),
    "no actors": ("[ray]\ntenant_actors = 0\n", Malformed, "ray.tenant_actors"),
    "too many actors": ("[ray]\ntenant_actors = 257\n", Malformed, "ray.tenant_actors"),
    "more than a mebibyte": ("#" * (1 << 20) + "\n", Unreadable, "1 MiB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_is_refused_that_is(case: str, tmp_path: Path) -> None:
    text, kind, named = REFUSED[case]
    (tmp_path / "tenantry.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(kind) as caught:
        load(None, None, {}, tmp_path)
    assert named in str(caught.value)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"nowhere\.toml"):
        load(None, "nowhere.toml", {}, tmp_path)
    with pytest.raises(Unreadable, match=r"nowhere\.toml"):
        load(None, None, {"TENANTRY_CONFIG": "nowhere.toml"}, tmp_path)
