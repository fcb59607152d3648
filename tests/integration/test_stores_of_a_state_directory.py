"""What `init` makes beside the state directory, and whose it may be."""

from __future__ import annotations

from pathlib import Path

import pytest
from desk import STRANGER, Desk

from cli.config import load
from cli.state import relocated


@pytest.fixture
def beside(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A secret store whose name begins with that of the state directory."""
    place = desk.directory / "fresh-secrets"
    monkeypatch.setenv("TENANTRY_SECRETS_URL", f"file://{place}")
    return place


def test_a_secret_store_beside_the_state_directory_is_the_one_that_gets_the_keys(desk: Desk, beside: Path) -> None:
    assert desk.type("init", "--state", "fresh").code == 0

    assert sorted(path.name for path in beside.iterdir()) == ["event-key.secret", "ledger-key.secret"]
    assert not [path.name for path in (desk.directory / "fresh").iterdir() if path.name.startswith(".init-")]
    assert desk.type("tenant", "add", STRANGER, "--domain", "contoso.com", "--state", "fresh").code == 0


def test_init_does_not_write_over_the_keys_of_another_state_directory(desk: Desk, beside: Path) -> None:
    assert desk.type("init", "--state", "fresh").code == 0
    before = {path.name: path.read_bytes() for path in beside.iterdir()}

    assert "of another state directory" in desk.refused(2, "init", "--state", "second")

    assert {path.name: path.read_bytes() for path in beside.iterdir()} == before
    assert not (desk.directory / "second").exists()
    assert desk.type("audit", "verify", "--state", "fresh").code == 0


def test_an_init_that_fails_leaves_no_keys_in_a_store_elsewhere(
    desk: Desk, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk.directory / "file").write_text("no directory")
    monkeypatch.setenv("TENANTRY_EVENTSTORE_URL", f"sqlite://{desk.directory}/file/events.db")
    assert desk.type("init", "--state", "fresh").code != 0

    monkeypatch.delenv("TENANTRY_EVENTSTORE_URL")
    assert desk.type("init", "--state", "fresh").code == 0
    assert len(list(beside.iterdir())) == 2


def test_only_what_is_made_in_the_state_directory_is_made_elsewhere_first(tmp_path: Path) -> None:
    settings = load(str(tmp_path / "state"), None, {"TENANTRY_SECRETS_CA_BUNDLE": "state/ca.pem"}, tmp_path).settings

    moved = relocated(settings, tmp_path / "building")

    assert moved.eventstore == f"sqlite://{tmp_path}/building/events.db"
    assert moved.passphrase_file == f"{tmp_path}/building/keys/passphrase"
    assert moved.secrets_ca_bundle == f"{tmp_path}/state/ca.pem"
    assert moved.clouds == settings.clouds
