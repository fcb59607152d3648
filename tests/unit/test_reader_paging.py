"""Readers of lists, deltas and windows, asked by a service that is a dictionary."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.catalog import load_catalog
from collectors.pages import is_own
from collectors.reader import MOST_ATTEMPTS, Reader, Request, Response
from collectors.readers import reader_for
from collectors.work import Assignment, Complete, NotPossible, Restart, Truncated
from domain.errors import TokenExpired
from domain.ids import Dataset, RunId, TenantId
from domain.settings import CLOUDS

GRAPH = CLOUDS["public"].graph
CATALOG = load_catalog()
CATALOG[Dataset("audit.sign-ins")] = msgspec.structs.replace(CATALOG[Dataset("audit.sign-ins")], step_hours=24)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def assignment(name: str, **changes: Any) -> Assignment:
    given: dict[str, Any] = {"mode": "full", **changes}
    return Assignment(
        tenant=TenantId("11111111-2222-3333-4444-555555555555"),
        run=RunId("20261122T203000-0a1b2c3d"),
        dataset=Dataset(name),
        cloud=CLOUDS["public"],
        **given,
    )


def reader(name: str, **changes: Any) -> Reader:
    return reader_for(CATALOG[Dataset(name)], assignment(name, **changes))


def answer(body: Any, status: int = 200) -> Response:
    return Response(status=status, headers={}, body=body if isinstance(body, bytes) else json.dumps(body).encode())


def error(status: int, code: str, message: str = "") -> Response:
    return answer({"error": {"code": code, "message": message}}, status)


def asked(subject: Reader) -> Request:
    request = subject.next_request()
    assert request is not None
    return request


def page(rows: list[Any], **annotations: Any) -> Response:
    return answer({f"@odata.{name}": value for name, value in annotations.items()} | {"value": rows})


@given(pages=st.lists(st.lists(st.integers(), max_size=4), min_size=1, max_size=8), deaths=st.sets(st.integers(0, 8)))
def test_wherever_a_collector_dies_every_row_arrives_once(pages: list[list[int]], deaths: set[int]) -> None:
    subject, rows, step = reader("entra.subscribed-skus"), [], 0
    while (request := subject.next_request()) is not None:
        at = int(parse_qs(urlsplit(request.url).query).get("$skiptoken", ["0"])[0])
        more = {"nextLink": f"{GRAPH}/v1.0/subscribedSkus?$skiptoken={at + 1}"} if at + 1 < len(pages) else {}
        rows += subject.receive(page([{"n": n} for n in pages[at]], **more))
        if step in deaths:
            subject = reader("entra.subscribed-skus", cursor=subject.cursor)
        step += 1

    assert [json.loads(row)["n"] for row in rows] == [n for numbers in pages for n in numbers]
    assert subject.end == Complete()


def test_rows_keep_the_bytes_the_service_sent() -> None:
    subject = reader("entra.subscribed-skus")

    rows = subject.receive(answer(b'{"value": [{"a": 1.50, "b":"\\u00e9"} , {"n": 12345678901234567890123}]}'))

    assert rows == [b'{"a": 1.50, "b":"\\u00e9"}', b'{"n": 12345678901234567890123}']


def test_a_row_over_several_lines_becomes_one_line() -> None:
    subject = reader("entra.subscribed-skus")

    assert subject.receive(answer(b'{"value":[{\n "a": 1.50,\r\n "b": [1, 2]\n}]}')) == [b'{"a":1.50,"b":[1,2]}']


NO_PAGES = [
    b"",
    b"\0" * 64,
    b'{"value":[{"id":"1"}',
    b'{"value":null}',
    b'{"value":{}}',
    b"[]",
    b"{}",
    b'{"value":[1]}',
    b'{"value":[[{}]]}',
    b'{"value":[{"a":"\xff"}]}',
    b'{"value":[{"a":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
    b'{"error":{"code":"UnknownError"}}',
    b'{"value":[],"@odata.nextLink":"https://graph.microsoft.com.evil.example/v1.0/x"}',
    b'{"value":[],"@odata.nextLink":"https://graph.microsoft.com@evil.example/v1.0/x"}',
    b'{"value":[],"@odata.nextLink":"http://graph.microsoft.com/v1.0/x"}',
    b'{"value":[],"@odata.nextLink":"/v1.0/x"}',
    b'{"value":[],"@odata.nextLink":7}',
]


@pytest.mark.parametrize("body", NO_PAGES)
def test_what_is_no_page_is_asked_for_again_and_then_truncates(body: bytes) -> None:
    subject = reader("entra.subscribed-skus")
    waits = []

    for _ in range(MOST_ATTEMPTS):
        request = asked(subject)
        assert request.url.startswith(f"{GRAPH}/v1.0/subscribedSkus")
        waits.append(request.wait)
        assert subject.receive(answer(body)) == []

    assert isinstance(subject.end, Truncated)
    assert subject.next_request() is None
    assert subject.cursor is None
    assert waits == [0.0, 1.0, 2.0, 4.0]


def test_a_link_that_was_followed_already_never_completes() -> None:
    subject = reader("entra.subscribed-skus")
    link = f"{GRAPH}/v1.0/subscribedSkus?$skiptoken=1"

    while subject.next_request() is not None:
        subject.receive(page([{"id": "1"}], nextLink=link))

    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "protocol"


@given(st.text())
def test_only_links_below_the_origin_are_followed(tail: str) -> None:
    link = GRAPH + tail
    if is_own(link, GRAPH):
        parts = urlsplit(link)
        assert (parts.scheme, parts.netloc) == ("https", "graph.microsoft.com")


def test_a_cursor_that_leads_to_another_cloud_restarts() -> None:
    cursor = '{"link":"https://elsewhere.example/v1.0/users","pages":1}'

    assert reader("entra.subscribed-skus", cursor=cursor).end == Restart("cursor-of-another-cloud", "full")


def test_a_finished_cursor_has_nothing_more_to_ask() -> None:
    first = reader("entra.subscribed-skus")
    first.receive(page([{"id": "1"}]))

    again = reader("entra.subscribed-skus", cursor=first.cursor)

    assert again.next_request() is None
    assert again.end == first.end == Complete()


def test_a_token_is_refreshed_once_and_then_given_up() -> None:
    subject = reader("entra.subscribed-skus")

    with pytest.raises(TokenExpired):
        subject.receive(error(401, "InvalidAuthenticationToken"))
    assert subject.end is None
    subject.receive(error(401, "InvalidAuthenticationToken"))

    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "token-refused"


@pytest.mark.parametrize(
    ("name", "response", "reason", "named"),
    [
        ("entra.users", error(403, "Authorization_RequestDenied"), "not-permitted", "User.Read.All"),
        ("audit.sign-ins", error(403, "Authentication_RequestFromNonPremiumTenantOrB2CTenant"), "unlicensed", "P1"),
        ("entra.groups", error(403, "Authentication_MSGraphPermissionMissing"), "not-consented", "Group.Read.All"),
        ("exchange.mailboxes", answer(b"", 403), "not-permitted", "Global Reader"),
    ],
)
def test_a_refusal_names_what_is_missing(name: str, response: Response, reason: str, named: str) -> None:
    subject = reader(name, window=(NOW - timedelta(days=1), NOW))
    if name == "entra.users":
        subject.receive(answer(b"12"))

    subject.receive(response)

    assert isinstance(subject.end, NotPossible)
    assert subject.end.reason == reason
    assert named in subject.end.detail


def test_a_first_delta_round_counts_first_and_ends_with_its_link() -> None:
    subject = reader("entra.users")
    assert asked(subject).url == f"{GRAPH}/v1.0/users/$count"
    subject.receive(answer("\ufeff2".encode()))
    assert "$select=id,displayName" in asked(subject).url
    assert asked(subject).headers["Prefer"] == "odata.maxpagesize=999"
    subject.receive(page([{"id": "1"}, {"id": "2"}], deltaLink=f"{GRAPH}/v1.0/users/delta?$deltatoken=x"))

    assert subject.end == Complete(
        expected=2, expected_by="GET /v1.0/users/$count", delta_link=f"{GRAPH}/v1.0/users/delta?$deltatoken=x"
    )


def test_a_service_that_does_not_count_is_read_all_the_same() -> None:
    subject = reader("entra.users")
    subject.receive(error(400, "Request_UnsupportedQuery"))
    subject.receive(page([{"id": "1"}], deltaLink=f"{GRAPH}/v1.0/users/delta?$deltatoken=x"))

    assert isinstance(subject.end, Complete)
    assert subject.end.expected is None


def test_a_list_with_fewer_rows_than_it_announced_never_completes() -> None:
    subject = reader("entra.subscribed-skus")
    link = f"{GRAPH}/v1.0/subscribedSkus?$skiptoken=1"
    subject.receive(page([{"id": "1"}, {"id": "2"}], count=4, nextLink=link))
    subject = reader("entra.subscribed-skus", cursor=subject.cursor)

    subject.receive(page([{"id": "3"}]))

    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "fewer-than-announced"
    assert "announced 4 rows and gave 3" in subject.end.detail


def test_a_list_with_the_rows_it_announced_completes() -> None:
    subject = reader("entra.subscribed-skus")
    link = f"{GRAPH}/v1.0/subscribedSkus?$skiptoken=1"
    subject.receive(page([{"id": "1"}, {"id": "2"}], count=3, nextLink=link))

    subject.receive(page([{"id": "3"}]))

    assert subject.end == Complete(expected=3, expected_by="@odata.count")


def test_each_window_is_held_against_its_own_announcement() -> None:
    subject = reader("audit.sign-ins", window=(NOW - timedelta(days=3), NOW))
    subject.receive(page([{"id": "1"}, {"id": "2"}], count=2))
    subject.receive(page([{"id": "3"}], count=2, nextLink=f"{GRAPH}/v1.0/auditLogs/signIns?$skiptoken=1"))
    subject.receive(error(400, "Directory_ExpiredPageToken"))
    subject.receive(page([{"id": "3"}], count=1))
    assert subject.end is None

    subject.receive(page([{"id": "4"}], count=2))

    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "fewer-than-announced"


@pytest.mark.parametrize(
    ("announced", "rows", "complete"),
    [
        (100_000, 2, False),
        (100_000, 98_990, True),
        (1000, 980, True),
        (1000, 979, False),
        (10, 9, True),
        (10, 8, False),
        (5, 4, False),
        (5, 9, True),
    ],
)
def test_a_count_made_apart_may_be_a_little_off_and_no_more(announced: int, rows: int, complete: bool) -> None:
    subject = reader("entra.users")
    subject.receive(answer(str(announced).encode()))
    link = f"{GRAPH}/v1.0/users/delta?$deltatoken=x"

    subject.receive(page([{"id": str(n)} for n in range(rows)], deltaLink=link))

    if complete:
        assert subject.end == Complete(expected=announced, expected_by="GET /v1.0/users/$count", delta_link=link)
    else:
        assert isinstance(subject.end, Truncated)
        assert subject.end.reason == "fewer-than-announced"


def test_a_last_delta_page_without_its_link_never_completes() -> None:
    subject = reader("entra.groups")
    while subject.next_request() is not None:
        subject.receive(page([{"id": "1"}]))

    assert isinstance(subject.end, Truncated)


SINCE = f"{GRAPH}/v1.0/groups/delta?$deltatoken=old"


@pytest.mark.parametrize(
    ("response", "end"),
    [
        (error(410, "resyncRequired"), Restart("resync-required", "full")),
        (error(400, "syncStateNotFound"), Restart("resync-required", "full")),
        (error(404, "syncStateNotFound"), Restart("resync-required", "full")),
        (error(400, "Directory_ExpiredPageToken"), Restart("page-token-expired", "full")),
    ],
)
def test_an_expired_delta_link_restarts_the_collection(response: Response, end: Restart) -> None:
    subject = reader("entra.groups", mode="delta", since=SINCE)
    assert asked(subject).url == SINCE

    subject.receive(response)

    assert subject.end == end


def test_an_error_that_leaves_parts_of_itself_empty_is_understood() -> None:
    empty = {"code": "syncStateNotFound", "message": None, "innererror": {"message": None}, "details": None}
    subject = reader("entra.users", mode="delta", since=f"{GRAPH}/v1.0/users/delta?$deltatoken=1")

    subject.receive(answer({"error": empty}, 400))

    assert subject.end == Restart("resync-required", "full")


def test_too_many_restarts_truncate() -> None:
    subject = reader("entra.groups", mode="delta", since=SINCE, restarts=3)

    subject.receive(error(410, "resyncRequired"))

    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "restarted-too-often"


def test_a_page_token_that_expires_in_a_delta_round_repeats_that_round() -> None:
    subject = reader("entra.groups", mode="delta", since=SINCE)
    subject.receive(page([], nextLink=f"{GRAPH}/v1.0/groups/delta?$skiptoken=1"))

    subject.receive(error(400, "Directory_ExpiredPageToken"))

    assert subject.end == Restart("page-token-expired", "delta")


def test_a_delta_link_of_another_cloud_starts_anew() -> None:
    subject = reader("entra.groups", mode="delta", since="https://dod-graph.microsoft.us/v1.0/groups/delta?x")

    assert subject.end == Restart("delta-link-of-another-cloud", "full")


@given(hours=st.integers(0, 200), step=st.integers(1, 48))
def test_windows_cover_the_time_once_and_without_a_gap(hours: int, step: int) -> None:
    dataset = msgspec.structs.replace(CATALOG[Dataset("audit.sign-ins")], step_hours=step)
    subject = reader_for(dataset, assignment("audit.sign-ins", window=(NOW - timedelta(hours=hours), NOW)))
    edges = []
    while (request := subject.next_request()) is not None:
        clause = parse_qs(urlsplit(request.url).query)["$filter"][0].split()
        assert clause[0:2] == ["createdDateTime", "ge"]
        edges.append((clause[2], clause[6]))
        subject.receive(page([]))

    assert subject.end == Complete(watermark=NOW)
    assert all(one[1] == other[0] for one, other in pairwise(edges))
    if hours:
        assert (edges[0][0], edges[-1][1]) == (
            (NOW - timedelta(hours=hours)).isoformat().replace("+00:00", "Z"),
            "2026-11-22T12:00:00Z",
        )


def test_an_expired_page_token_costs_one_window_only() -> None:
    subject = reader("audit.sign-ins", window=(NOW - timedelta(days=2), NOW))
    subject.receive(page([{"id": "1"}]))
    second = asked(subject).url
    for _ in range(3):
        subject.receive(page([{"id": "2"}], nextLink=f"{GRAPH}/v1.0/auditLogs/signIns?$skiptoken=1"))
        subject.receive(error(400, "Directory_ExpiredPageToken"))
        assert asked(subject).url == second
    subject.receive(page([{"id": "2"}], nextLink=f"{GRAPH}/v1.0/auditLogs/signIns?$skiptoken=1"))
    subject.receive(error(400, "Directory_ExpiredPageToken"))

    assert subject.end == Restart("page-token-expired", "full")


def test_exchange_pages_are_read_by_sending_the_same_body_with_the_same_anchor() -> None:
    subject = reader("exchange.mailboxes")
    first = asked(subject)
    link = f"{CLOUDS['public'].exchange}/adminapi/beta/t/InvokeCommand?$skiptoken=2"
    subject.receive(answer({"value": [{"ExchangeGuid": "1"}], "@adminapi.warnings": [], "@odata.nextLink": link}))
    second = asked(subject)

    assert (first.method, second.method, second.url) == ("POST", "POST", link)
    assert second.body == first.body
    assert second.headers == first.headers
    assert first.headers["X-AnchorMailbox"].startswith("APP:SystemMailbox{")


def test_a_warning_on_any_exchange_page_means_that_rows_are_missing() -> None:
    subject = reader("exchange.mailboxes")
    link = f"{CLOUDS['public'].exchange}/adminapi/beta/t/InvokeCommand?$skiptoken=2"
    subject.receive(answer({"value": [{"a": 1}], "@adminapi.warnings": ["More results."], "@odata.nextLink": link}))
    subject = reader("exchange.mailboxes", cursor=subject.cursor)

    assert subject.receive(answer({"value": [{"a": 2}], "@adminapi.warnings": []})) == [b'{"a": 2}']
    assert subject.end == Truncated("warned", "Exchange warned: More results.")


def test_an_error_beside_the_rows_of_an_exchange_page_means_that_rows_are_missing() -> None:
    said = "The operation failed; 900 objects were not returned."
    subject = reader("exchange.mailboxes")

    assert subject.receive(answer({"value": [{"a": 1}], "@adminapi.errors": [said]})) == [b'{"a": 1}']
    assert subject.end == Truncated("warned", f"Exchange warned: {said}")


def test_a_tenant_without_exchange_server_has_no_onprem_datasets() -> None:
    subject = reader("onprem.mailboxes")

    assert subject.next_request() is None
    assert isinstance(subject.end, NotPossible)
    assert subject.end.reason == "no-endpoint"
