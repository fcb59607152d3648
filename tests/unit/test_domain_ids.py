"""What the parse functions let in and what they refuse."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import ids
from domain.errors import Malformed
from domain.ids import SLOTS, TenantId

PARSERS = [ids.tenant_id, ids.domain_name, ids.dataset, ids.slot, ids.run_id, ids.moment]
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
last_labels = st.from_regex(r"[a-z]{2,10}", fullmatch=True)
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.uuids(), st.sampled_from([str, lambda guid: str(guid).upper(), "{{{}}}".format]))
def test_a_guid_becomes_a_lower_case_tenant_id(guid: object, written: object) -> None:
    assert callable(written)
    assert ids.tenant_id(written(guid)) == str(guid)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "contoso.com",
        "11111111222233334444555555555555",
        "urn:uuid:11111111-2222-3333-4444-555555555555",
        "11111111-2222-3333-4444-55555555555",
        "11111111-2222-3333-4444-555555555555\n",
        "\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661-2222-3333-4444-555555555555",
    ],
)
def test_what_is_no_guid_is_no_tenant_id(text: str) -> None:
    with pytest.raises(Malformed, match="tenant id"):
        ids.tenant_id(text)


@given(st.lists(labels, min_size=1, max_size=4), last_labels)
def test_a_dns_name_is_taken_in_lower_case(names: list[str], last: str) -> None:
    name = ".".join([*names, last])
    assert ids.domain_name(f" {name.upper()} ") == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "contoso",
        "contoso.",
        ".com",
        "con toso.com",
        "-a.com",
        "a-.com",
        "a..com",
        "a.c",
        "a.1",
        "a/b.com",
        "x" * 64 + ".com",
        "a." * 126 + "com",
        "https://contoso.com",
        "contoso.com\nevil.com",
    ],
)
def test_what_is_no_dns_name_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="domain"):
        ids.domain_name(text)


@given(st.from_regex(r"[a-z][a-z0-9]{0,9}\.[a-z][a-z0-9-]{0,60}", fullmatch=True))
def test_a_dataset_is_workload_dot_what(text: str) -> None:
    assert ids.dataset(text) == text


@pytest.mark.parametrize(
    "text", ["", "users", "entra.", ".users", "entra.Users", "entra.users;", "a.b.c", "entra.us\n"]
)
def test_what_is_no_dataset_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="dataset"):
        ids.dataset(text)


@given(st.text())
def test_a_slot_is_one_of_two(text: str) -> None:
    if text in SLOTS:
        assert ids.slot(text) == text
    else:
        with pytest.raises(Malformed, match="slot"):
            ids.slot(text)


@given(st.datetimes(datetime(1000, 1, 2), datetime(9999, 12, 30), timezones=zones), st.integers(0, 2**32 - 1))
def test_a_new_run_id_is_a_run_id_and_begins_with_its_time_in_utc(now: datetime, random: int) -> None:
    run = ids.new_run_id(now, random)
    assert ids.run_id(run) == run
    stamp, _, bits = run.partition("-")
    assert datetime.strptime(stamp, "%Y%m%dT%H%M%S").replace(tzinfo=UTC) == now.replace(microsecond=0)
    assert int(bits, 16) == random


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20261122T203000",
        "20261122T203000-0A1B2C3D",
        "20261122T203000-0a1b2c3d4",
        "../20261122T203000-0a1b2c3d",
        "\u0662\u0660\u0662\u0666\u0661\u0661\u0662\u0662T203000-0a1b2c3d",
        "20261122T203000-0a1b2c3d\n",
    ],
)
def test_what_is_no_run_id_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="run id"):
        ids.run_id(text)


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=zones))
def test_a_moment_is_read_in_any_zone_and_given_in_utc(at: datetime) -> None:
    assert ids.moment(at.isoformat()) == at
    assert ids.moment(at.isoformat()).tzinfo is UTC


@given(st.datetimes())
def test_a_moment_without_a_zone_is_utc(at: datetime) -> None:
    assert ids.moment(at.isoformat()) == at.replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="time"):
        ids.moment(text)


@given(st.text(max_size=300) | st.text(string.printable, max_size=60))
def test_a_parse_function_gives_a_value_it_would_take_again_or_says_malformed(text: str) -> None:
    for parse in PARSERS:
        try:
            value = parse(text)
        except Malformed:
            continue
        assert parse(str(value)) == value


@given(st.uuids(), st.sampled_from(SLOTS))
def test_streams_of_two_aggregates_never_share_a_name(guid: object, slot: ids.Slot) -> None:
    tenant = TenantId(str(guid))
    run = ids.run_id("20261122T203000-0a1b2c3d")
    streams = [
        ids.tenant_stream(tenant),
        ids.credential_stream(tenant, slot),
        ids.run_stream(run),
        ids.collection_stream(tenant, ids.dataset("entra.users")),
        ids.VAULT_KEYS,
        ids.LEDGER,
    ]
    assert [ids.category(stream) for stream in streams] == [
        "tenant",
        "credential",
        "run",
        "collection",
        "vault-key",
        "ledger",
    ]
