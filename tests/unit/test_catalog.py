"""The catalog of datasets, ours and a user's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collectors.catalog import load_catalog
from collectors.dataset import lost_of, window_of
from collectors.throttle import LIMITS
from domain.errors import AlreadyExists, Malformed, Unreadable
from domain.ids import Dataset

MINE = """
[[dataset]]
name = "entra.devices"
workload = "graph"
mode = "delta"
path = "/v1.0/devices/delta"
select = ["id", "displayName"]
key = "id"
permission = "Device.Read.All"
after = "entra.organization"
"""
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_the_first_catalog_has_the_datasets_of_the_design() -> None:
    assert set(load_catalog()) == {
        "entra.organization",
        "entra.users",
        "entra.groups",
        "entra.subscribed-skus",
        "entra.group-owners",
        "audit.sign-ins",
        "reports.active-users",
        "exchange.mailboxes",
        "exchange.mailbox-statistics",
        "exchange.transport-rules",
        "onprem.mailboxes",
        "onprem.receive-connectors",
    }


def test_a_dataset_stands_behind_those_it_waits_for() -> None:
    order = list(load_catalog())
    for row in load_catalog().values():
        for parent in filter(None, (row.after, row.items)):
            assert order.index(Dataset(parent)) < order.index(row.name)


def test_every_dataset_but_the_gate_waits_for_the_gate() -> None:
    after = {row.name: row.after for row in load_catalog().values()}

    assert after.pop(Dataset("entra.organization")) == ""
    assert set(after.values()) == {"entra.organization"}


def test_every_dataset_is_charged_to_a_bucket_with_a_limit() -> None:
    assert {row.throttled_by for row in load_catalog().values()} <= set(LIMITS)


def test_a_user_adds_a_dataset_without_code(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE)

    assert load_catalog(str(file))[Dataset("entra.devices")].permission == "Device.Read.All"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"delta"', '"deltas"', Unreadable),
        ('key = "id"', "", Unreadable),
        ('key = "id"', 'key = "id"\ncolour = "red"', Unreadable),
        ("[[dataset]]", "[[dataset", Unreadable),
        ("entra.devices", "Devices", Malformed),
        ("entra.devices", "entra.users", AlreadyExists),
        ("/v1.0/devices/delta", "https://evil.example/v1.0/devices", Malformed),
        ("/v1.0/devices/delta", "/v1.0/../devices", Malformed),
        ("/v1.0/devices/delta", "/v1.0/devices?$top=5", Malformed),
        ('key = "id"', 'key = "id"\ncount = ".evil.example/v1.0/devices"', Malformed),
        ('mode = "delta"', 'mode = "full"\ncount = "/v1.0/devices/$count"', Malformed),
        ('key = "id"', 'key = "id,"', Malformed),
        ('key = "id"', 'key = ""', Malformed),
        ('key = "id"', 'key = "id"\nquery = ' + "[" * 5000, Unreadable),
        ('"graph"', '"exchange"', Malformed),
        ('"entra.organization"', '"entra.nothing"', Malformed),
        ('"entra.organization"', '"entra.devices"', Malformed),
        ('mode = "delta"', 'mode = "per-item"', Malformed),
        ('mode = "delta"', 'mode = "window"', Malformed),
        ('key = "id"', 'key = "id"\npage-size = 100000', Malformed),
        ('key = "id"', 'key = "id"\nbucket = "nothing"', Malformed),
    ],
)
def test_a_mistake_in_a_users_catalog_is_named(tmp_path: Path, old: str, new: str, error: type[Exception]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE.replace(old, new))

    with pytest.raises(error):
        load_catalog(str(file))


def test_a_cmdlet_that_changes_something_is_no_dataset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[dataset]]\nname = "exchange.x"\nworkload = "exchange"\nmode = "full"\n'
        'cmdlet = "Set-Mailbox"\nkey = "Guid"\npermission = "none"\n'
    )

    with pytest.raises(Malformed) as refused:
        load_catalog(str(file))

    assert "Set-Mailbox" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "workload"),
    [
        ("hybrid.databases", "exchange-server"),
        ("entra.org-config", "exchange"),
        ("exchange.message-traces", "graph"),
        ("onprem.sites", "graph"),
    ],
)
def test_a_name_whose_runs_would_get_no_credential_is_refused(tmp_path: Path, name: str, workload: str) -> None:
    file = tmp_path / "mine.toml"
    what = 'path = "/v1.0/sites"' if workload == "graph" else 'cmdlet = "Get-Thing"'
    row = f'[[dataset]]\nname = "{name}"\nworkload = "{workload}"\nmode = "full"\n{what}\nkey = "id"\npermission = "P"'
    file.write_text(row)

    with pytest.raises(Malformed) as refused:
        load_catalog(str(file))

    assert f"'{workload}' is not a workload of dataset {name}" in str(refused.value)
    assert "give the dataset another name" in str(refused.value)
    file.write_text(row.replace(name, "onprem.mine" if workload == "exchange-server" else "mine.thing"))
    assert load_catalog(str(file))


def test_a_catalog_that_is_not_there_or_too_long_is_unreadable(tmp_path: Path) -> None:
    long = tmp_path / "long.toml"
    long.write_bytes(b"#" * ((1 << 20) + 1))
    for path in (tmp_path / "none.toml", tmp_path, long):
        with pytest.raises(Unreadable):
            load_catalog(str(path))


def test_a_window_overlaps_the_last_one_and_never_reaches_past_the_log() -> None:
    dataset = load_catalog()[Dataset("audit.sign-ins")]
    assert window_of(dataset, None, NOW) == (NOW - timedelta(days=30), NOW)
    assert window_of(dataset, NOW - timedelta(days=1), NOW) == (NOW - timedelta(hours=30), NOW)
    assert window_of(dataset, NOW - timedelta(days=90), NOW) == (NOW - timedelta(days=30), NOW)
    assert window_of(dataset, NOW + timedelta(days=9), NOW) == (NOW, NOW)


def test_what_the_log_no_longer_has_since_the_last_complete_collection_is_lost() -> None:
    dataset = load_catalog()[Dataset("audit.sign-ins")]
    assert lost_of(dataset, None, NOW) is None
    assert lost_of(dataset, NOW - timedelta(days=30), NOW) is None
    assert lost_of(dataset, NOW - timedelta(days=45), NOW) == (NOW - timedelta(days=45), NOW - timedelta(days=30))
