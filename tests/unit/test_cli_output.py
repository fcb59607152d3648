"""Tables that fit, JSON that holds, and text that cannot steer a terminal."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from cli.collect import missing
from cli.output import cell, json_text, shown
from cli.refusals import Refusal, refusal_of
from cli.run import outcomes
from cli.trail import facts
from domain.errors import ConnectionLost, Malformed, NotAllowed, PortInUse, TenantryError, Unknown, Unreadable
from domain.ids import Dataset, RunId, TenantId
from projections.runs import DatasetProgress, RunRow

TENANT = "11111111-2222-3333-4444-555555555555"
ROWS: list[dict[str, Any]] = [
    {
        "tenant": TENANT,
        "name": "Contoso",
        "last_run": "20261122T203000-0a1b2c3d",
        "last_complete": datetime(2026, 11, 22, 20, 30, tzinfo=UTC),
        "rows": 12345,
        "why": "permanent-credential (entra)",
    }
]
COLUMNS = ("tenant", "name", "last_run", "last_complete", "rows", "why")


def printed(rows: list[dict[str, Any]], columns: tuple[str, ...], width: int | None, *, as_named: bool = False) -> str:
    file = io.StringIO()
    table = shown(rows, columns, width, as_named=as_named)
    Console(file=file, width=width or 80).print(table, highlight=False, soft_wrap=width is None)
    return file.getvalue()


def test_a_wide_terminal_gets_a_line_for_each_row() -> None:
    heading, line = printed(ROWS, COLUMNS, 150).splitlines()
    assert heading.split()[:2] == ["tenant", "name"]
    assert TENANT in line
    assert "12,345" in line


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_gets_a_record_with_everything_whole(width: int) -> None:
    text = printed(ROWS, COLUMNS, width)
    assert text.startswith(TENANT)
    for whole in ("name Contoso", "last run 20261122T203000-0a1b2c3d", "rows 12,345", "2026-11-22 20:30:00"):
        assert whole in text


@given(
    st.lists(st.fixed_dictionaries({"a": st.text(max_size=60), "why": st.text(max_size=200), "n": st.integers()})),
    st.integers(20, 200),
)
def test_no_line_is_wider_than_the_terminal(rows: list[dict[str, Any]], width: int) -> None:
    if rows:
        assert all(cell_len(line) <= width for line in printed(rows, ("a", "why", "n"), width).split("\n"))


def test_a_count_of_rows_is_grouped() -> None:
    assert "12,345" in printed([{"rows": 12345}], ("rows",), 80)


def test_what_sql_returned_is_shown_as_it_is() -> None:
    rows = [{"count_star()": 1, "_collected_at": "x", "rows": 12345}]
    for width in (80, None):
        table = printed(rows, tuple(rows[0]), width, as_named=True).splitlines()
        assert [line.split() for line in table] == [["count_star()", "_collected_at", "rows"], ["1", "x", "12345"]]


@given(
    st.lists(
        st.fixed_dictionaries({"a": st.text(max_size=60), "why": st.text(max_size=300), "n": st.integers()}),
        min_size=1,
        max_size=5,
    )
)
def test_without_a_terminal_every_row_is_one_line_with_every_value_whole(rows: list[dict[str, Any]]) -> None:
    _, *lines = printed(rows, ("a", "why", "n"), None)[:-1].split("\n")
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        assert cell(row["a"]) in line
        assert cell(row["why"]) in line
        assert line.endswith(str(row["n"]))


def test_an_id_never_breaks_inside_a_cell() -> None:
    fact = f"slot=entra, kind=app-certificate, identity={TENANT}, vault_key=KBCy_PE5tTSn..."
    rows = [{"position": 6, "event": "credential-sealed/1", "facts": fact, "why": "a " * 60}]
    for width in (60, 90, 100, 110, 120, 150):
        assert f"identity={TENANT}," in printed(rows, ("position", "event", "facts", "why"), width)


@given(st.text())
def test_collected_text_cannot_steer_the_terminal(text: str) -> None:
    assert not {chr(code) for code in (*range(32), 127, *range(128, 160))} & set(cell(text))
    assert "\x1b" not in cell({"nested": [text, "\x1b[2J"]})


def test_brackets_in_collected_text_are_shown_as_they_are() -> None:
    assert "[red]Sales[/red] [/]" in printed([{"name": "[red]Sales[/red] [/]"}], ("name",), 80)


def test_numbers_of_any_size_stay_numbers_in_json() -> None:
    rows = [{"sum": 2**100, "at": datetime(2026, 1, 1, tzinfo=UTC), "name": "Zoë"}]
    assert json.loads(json_text(rows)) == [{"sum": 2**100, "at": "2026-01-01T00:00:00Z", "name": "Zoë"}]


DIGEST = "3f" * 32
THUMBPRINT = "abcdefgh-_" * 4 + "xyz"


@pytest.mark.parametrize("digest", [DIGEST, THUMBPRINT])
def test_a_digest_stays_whole_where_there_is_room_and_is_shortened_where_there_is_none(digest: str) -> None:
    rows = [{"version": 1, "key": digest, "state": "active", "sealed": 12}]
    columns = ("version", "key", "state", "sealed")
    for width, key in ((150, digest), (len(digest) + 25, digest), (len(digest), f"{digest[:12]}...")):
        _, line = printed(rows, columns, width).splitlines()
        assert line.split() == ["1", key, "active", "12"]


def test_a_digest_among_facts_is_shortened() -> None:
    assert facts({"digest": DIGEST, "vault_key": THUMBPRINT, "tree_size": 3}) == (
        f"digest={DIGEST[:12]}..., vault_key={THUMBPRINT[:12]}..., tree_size=3"
    )


ERRORS: list[tuple[TenantryError, Refusal]] = [
    (NotAllowed("collect", "it is late", "Wait."), Refusal("Cannot collect", "it is late", "Wait.")),
    (Unknown("cloud", "moon", "There are a."), Refusal("There is no cloud 'moon'", "", "There are a.")),
    (Malformed("port", "0", "1 to 9"), Refusal("'0' is not a port", "expected 1 to 9")),
    (PortInUse(443), Refusal("Port 443 is in use", "", "Choose another with --port, or 0 for a free one.")),
    (Unreadable("key", "/a: b. c", "gone", ""), Refusal("Cannot read the key /a: b. c", "gone")),
    (ConnectionLost("Graph", "{0}"), Refusal("The connection to Graph was lost", "{0}")),
]


@pytest.mark.parametrize(("error", "expected"), ERRORS, ids=lambda one: type(one).__name__)
def test_a_refusal_says_what_why_and_what_to_do(error: TenantryError, expected: Refusal) -> None:
    refusal = refusal_of(error)
    assert refusal == expected
    assert refusal.line() == " ".join(str(error).split())
    assert refusal.object(2) == {
        "error": expected.error,
        "why": expected.why or None,
        "do": expected.do or None,
        "exit": 2,
    }


def test_what_sql_may_give_is_shown_and_is_json() -> None:
    found = [{"h": {True: 2, date(2026, 1, 1): {Decimal("1.50"): 3}}, "n": 2**80, "t": datetime.min}]
    assert json.loads(json_text(found)) == [
        {"h": {"yes": 2, "2026-01-01": {"1.50": 3}}, "n": 2**80, "t": "0001-01-01T00:00:00"}
    ]
    assert '"2026-01-01": {"1.50": 3}' in cell(found[0]["h"])
    assert cell(datetime.min) == "1-01-01 00:00:00"
    assert cell(datetime.max) == "9999-12-31 23:59:59"


def test_what_a_log_lost_is_told_although_its_collection_is_complete() -> None:
    gap = DatasetProgress(dataset=Dataset("audit.sign-ins"), outcome="complete", reason="gap", detail="Nothing is.")
    whole = DatasetProgress(dataset=Dataset("entra.users"), outcome="complete")
    run = RunRow(
        run=RunId("20261122T203000-0a1b2c3d"),
        tenant=TenantId(TENANT),
        state="finished",
        requested=datetime(2026, 11, 22, tzinfo=UTC),
        requested_by="operator:ann",
        datasets=(gap, whole),
    )

    assert missing(run) == [("audit.sign-ins", "gap", "Nothing is.")]
    assert [line["why"] for line in outcomes(run)] == ["Nothing is.", None]
