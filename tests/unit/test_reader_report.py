"""The reader of usage reports."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.catalog import load_catalog
from collectors.reader import MOST_ATTEMPTS, Reader, Response
from collectors.readers import reader_for
from collectors.report import csv_rows
from collectors.work import Assignment, Complete, Truncated
from domain.ids import Dataset, RunId, TenantId
from domain.settings import CLOUDS

FILE = "https://reports.office.example/data/download/abc?sig=def"
NAME = Dataset("reports.active-users")
KEY = b"User Principal Name"


def reader() -> Reader:
    assignment = Assignment(
        tenant=TenantId("11111111-2222-3333-4444-555555555555"),
        run=RunId("20261122T203000-0a1b2c3d"),
        dataset=NAME,
        mode="report",
        cloud=CLOUDS["public"],
    )
    return reader_for(load_catalog()[NAME], assignment)


def answer(status: int, body: bytes = b"", location: str = "") -> Response:
    return Response(status=status, headers={"location": location} if location else {}, body=body)


def test_the_file_is_fetched_without_the_access_token_and_its_address_is_not_kept() -> None:
    subject = reader()
    first = subject.next_request()
    assert first is not None
    assert first.authorized
    subject.receive(answer(302, location=FILE))
    second = subject.next_request()
    assert second is not None
    assert (second.url, second.authorized, second.headers) == (FILE, False, {})
    assert subject.cursor is None

    rows = subject.receive(answer(200, "\ufeffUser Principal Name,Is Deleted\r\na@b.c,False\r\n".encode()))

    assert [json.loads(row) for row in rows] == [{"User Principal Name": "a@b.c", "Is Deleted": "False"}]
    assert subject.end == Complete()
    assert "sig=" not in str(subject.cursor)


def test_an_expired_address_is_asked_for_anew() -> None:
    subject = reader()
    subject.receive(answer(302, location=FILE))
    subject.receive(answer(403))

    request = subject.next_request()

    assert request is not None
    assert request.authorized
    assert "/reports/" in request.url


@pytest.mark.parametrize("location", ["http://reports.example/x", "", "https://[", "ftp://x/y", "https://a\\@b/c"])
def test_a_redirect_to_no_https_address_truncates(location: str) -> None:
    subject = reader()
    for _ in range(MOST_ATTEMPTS):
        assert subject.next_request() is not None
        subject.receive(answer(302, location=location))

    assert isinstance(subject.end, Truncated)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xef\xbb\xbf",
        b'{"error":{"code":"x"}}',
        b'\xef\xbb\xbf{"error":{"code":"x"}}',
        b"<html>",
        b"The service is unavailable.",
        b"Is Deleted,Report Refresh Date\nFalse,2026-11-20\n",
        KEY + b",b\n1\n",
        KEY + b",b\n1,2,3\n",
        KEY + b",b,b\n1,2,3\n",
        KEY + b"\n\xff\n",
        KEY + b',b\n1,"2\n',
    ],
)
def test_a_body_that_is_no_report_never_completes(body: bytes) -> None:
    subject = reader()
    while subject.end is None:
        request = subject.next_request()
        assert request is not None
        assert subject.receive(answer(302, location=FILE) if request.authorized else answer(200, body)) == []

    assert isinstance(subject.end, Truncated)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8)


@given(rows=st.lists(st.tuples(TEXT, TEXT), max_size=6), mark=st.booleans())
def test_rows_of_a_csv_are_objects_with_its_columns(rows: list[tuple[str, str]], mark: bool) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("name", "value"), *rows])
    body = out.getvalue().encode("utf-8-sig" if mark else "utf-8")

    found = csv_rows(body, ["name"])

    assert [json.loads(row) for row in found] == [{"name": a, "value": b} for a, b in rows]
    assert not any(b"\n" in row for row in found)


def test_an_empty_line_is_no_row() -> None:
    assert csv_rows(b"name,value\r\na,1\r\n\r\n", ["name"]) == [b'{"name":"a","value":"1"}']
