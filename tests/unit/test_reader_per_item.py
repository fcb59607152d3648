"""The reader of item by item datasets, asked by a service that fails at will."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.catalog import load_catalog
from collectors.per_item import MOST_IDLE_ROUNDS, PerItemReader, tagged
from collectors.reader import Response
from collectors.work import Assignment, Complete, NotPossible, Restart, Truncated
from domain.errors import TokenExpired
from domain.ids import Dataset, RunId, TenantId
from domain.settings import CLOUDS

GRAPH = CLOUDS["public"].graph
CATALOG = load_catalog()


def reader(items: list[str], cursor: str | None = None, name: str = "entra.group-owners") -> PerItemReader:
    assignment = Assignment(
        tenant=TenantId("11111111-2222-3333-4444-555555555555"),
        run=RunId("20261122T203000-0a1b2c3d"),
        dataset=Dataset(name),
        mode="per-item",
        cloud=CLOUDS["public"],
        cursor=cursor,
    )
    return PerItemReader(CATALOG[Dataset(name)], assignment, items)


def questions(subject: PerItemReader) -> list[dict[str, Any]]:
    request = subject.next_request()
    assert request is not None
    found: list[dict[str, Any]] = json.loads(request.body)["requests"]
    return found


def batch(answers: list[dict[str, Any]]) -> Response:
    return Response(status=200, headers={}, body=json.dumps({"responses": answers}).encode())


def fine(number: str, *ids: str, **annotations: Any) -> dict[str, Any]:
    return {"id": number, "status": 200, "body": {"value": [{"id": i} for i in ids]} | annotations}


def failed(number: str, status: int, code: str = "", **headers: str) -> dict[str, Any]:
    return {"id": number, "status": status, "headers": headers, "body": {"error": {"code": code}}}


def item_of(question: dict[str, Any]) -> str:
    return str(question["url"]).split("/")[2]


@given(count=st.integers(1, 90), seed=st.integers(), trouble=st.floats(0, 0.6))
def test_through_throttling_pages_and_deaths_every_row_arrives_once(count: int, seed: int, trouble: float) -> None:
    """Of fewer rounds in a row that bring nothing than end a collection."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable failure
    items = [f"g{n}" for n in range(count)]
    subject, rows, idle = reader(items), [], 0
    while subject.end is None:
        answers = []
        for question in questions(subject):
            second = "$skiptoken" in question["url"]
            link = {} if second else {"@odata.nextLink": f"{GRAPH}/v1.0/groups/{item_of(question)}/owners?$skiptoken=1"}
            if idle < MOST_IDLE_ROUNDS - 1 and chance.random() < trouble:
                answers += [failed(question["id"], 429, **{"Retry-After": "1"})] if chance.random() < 0.8 else []
            else:
                answers.append(fine(question["id"], f"{item_of(question)}-{int(second)}", **link))
        chance.shuffle(answers)
        idle = 0 if any(answer["status"] == 200 for answer in answers) else idle + 1
        rows += subject.receive(batch(answers))
        if chance.random() < 0.3 and subject.end is None:
            subject = reader(items[::-1], subject.cursor)
    assert subject.end == Complete()
    found = sorted((json.loads(row)["_item"], json.loads(row)["id"]) for row in rows)
    assert found == sorted((item, f"{item}-{part}") for item in items for part in (0, 1))


def test_at_most_twenty_items_stand_in_a_batch() -> None:
    assert len(questions(reader([f"g{n}" for n in range(50)]))) == 20
    assert len(questions(reader([f"m{n}" for n in range(50)], name="exchange.mailbox-statistics"))) == 10


def test_a_throttled_batch_shrinks_waits_as_told_and_grows_again() -> None:
    subject = reader([f"g{n:03}" for n in range(100)])

    subject.receive(batch([failed(q["id"], 429, **{"Retry-After": "7.5"}) for q in questions(subject)]))
    request = subject.next_request()
    assert request is not None
    assert request.wait == 7.5
    assert len(questions(subject)) == 10
    subject.receive(batch([fine(q["id"], "x") for q in questions(subject)]))

    assert len(questions(subject)) == 12


def test_an_item_that_never_answers_truncates() -> None:
    subject = reader(["a", "b"])
    while subject.end is None:
        subject.receive(
            batch([failed(q["id"], 503) if item_of(q) == "b" else fine(q["id"], "x") for q in questions(subject)])
        )

    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "unavailable"


def test_an_item_that_is_gone_has_no_rows() -> None:
    subject = reader(["a", "b"])

    rows = subject.receive(batch([failed("1", 404, "Request_ResourceNotFound"), fine("2", "x")]))

    assert rows == [b'{"_item":"b","id": "x"}']
    assert subject.end == Complete()


def test_items_that_are_all_gone_mean_that_the_question_was_wrong() -> None:
    subject = reader(["a", "b"])

    subject.receive(batch([failed("1", 404), failed("2", 404)]))

    assert isinstance(subject.end, Truncated)


def test_an_expired_token_costs_no_item() -> None:
    subject = reader(["a", "b"])
    with pytest.raises(TokenExpired):
        subject.receive(batch([fine("1", "x"), failed("2", 401)]))
    assert subject.end is None
    assert len(questions(subject)) == 2

    subject.receive(batch([fine("1", "x"), failed("2", 401)]))

    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "token-refused"


REFUSALS = [(400, "RecipientTaskException"), (403, "Authorization_RequestDenied"), (409, "Conflict")]


@pytest.mark.parametrize(("status", "code"), REFUSALS)
def test_items_that_are_refused_are_noted_and_the_others_are_read(status: int, code: str) -> None:
    items = [f"g{n:02}" for n in range(70)]
    refused = {"g05", "g45"}
    subject, rows = reader(items), []
    while subject.end is None:
        answers = [
            failed(q["id"], status, code) if item_of(q) in refused else fine(q["id"], "x") for q in questions(subject)
        ]
        rows += subject.receive(batch(answers))
        if subject.end is None:
            subject = reader(items, subject.cursor)

    assert {json.loads(row)["_item"] for row in rows} == {*items} - refused
    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "items-refused"
    assert subject.end.detail.startswith("2 of 70 items were refused, the first of them g05: ")
    assert code in subject.end.detail


@pytest.mark.parametrize("count", [1, 19, 20, 1000])
def test_a_dataset_whose_first_items_are_all_forbidden_is_not_possible_and_is_given_up(count: int) -> None:
    subject, asked = reader([f"g{n:04}" for n in range(count)]), 0
    while subject.end is None:
        asked += len(questions(subject))
        answers = [failed(q["id"], 403, "Authorization_RequestDenied") for q in questions(subject)]
        assert subject.receive(batch(answers)) == []

    assert isinstance(subject.end, NotPossible)
    assert subject.end.reason == "not-permitted"
    assert "GroupMember.Read.All" in subject.end.detail
    assert asked == min(count, 20)


def test_a_question_that_is_wrong_for_the_first_items_is_given_up() -> None:
    subject = reader([f"m{n:02}" for n in range(70)], name="exchange.mailbox-statistics")
    for _ in range(2):
        subject.receive(batch([failed(q["id"], 400, "ParameterBindingException") for q in questions(subject)]))

    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "refused"


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"responses":[{"id":"9","status":200}]}',
        '{"responses":[{"id":"²","status":200,"body":{"value":[]}}]}'.encode(),
        b'{"responses":[{"id":"1","status":200,"body":{"value":[{"id":"\xff"}]}}]}',
        b'{"responses":[{"id":"1","status":200,"body":{"value":[{"a":' + b"[" * 5000 + b"]" * 5000 + b"}]}}]}",
        b'{"responses":[{"id":"1","status":200,"body":{"value":[]}},{"id":"1","status":200,"body":{"value":[]}}]}',
        b'{"responses":[{"id":"1","status":200,"body":{"value":[1]}}]}',
        b'{"responses":[{"id":"1","status":200,"body":"AAAA"}]}',
        b'{"responses":[{"id":"1","status":200,"body":'
        b'{"value":[],"@odata.nextLink":"https://evil.example/v1.0/groups"}}]}',
    ],
)
def test_a_batch_answer_that_makes_no_sense_never_completes(body: bytes) -> None:
    subject = reader(["a"])
    while subject.next_request() is not None:
        assert subject.receive(Response(status=200, headers={}, body=body)) == []

    assert isinstance(subject.end, Truncated)
    assert subject.end.reason == "protocol"


def test_an_expired_link_of_an_item_restarts() -> None:
    subject = reader(["a"])
    subject.receive(batch([fine("1", "x", **{"@odata.nextLink": f"{GRAPH}/v1.0/groups/a/owners?$skiptoken=1"})]))
    assert questions(subject)[0]["url"] == "/groups/a/owners?$skiptoken=1"

    subject.receive(batch([failed("1", 400, "Directory_ExpiredPageToken")]))

    assert subject.end == Restart("page-token-expired", "per-item")


def test_a_mailbox_nobody_opened_yet_is_no_missing_row() -> None:
    subject = reader(["a"], name="exchange.mailbox-statistics")
    warning = "The user hasn't logged on to mailbox 'a', so there is no data to return."

    subject.receive(batch([fine("1", **{"@adminapi.warnings": [warning]})]))

    assert subject.end == Complete()


def test_an_error_beside_the_rows_of_an_item_means_that_rows_are_missing() -> None:
    subject = reader(["a", "b"], name="exchange.mailbox-statistics")
    said = "The user hasn't logged on to mailbox 'a', and 9 more were not returned."

    rows = subject.receive(batch([fine("1", "x", **{"@adminapi.errors": [said]}), fine("2", "y")]))

    assert len(rows) == 2
    assert subject.end == Truncated("warned", f"Exchange warned: {said}")


def test_no_items_are_complete_at_once() -> None:
    assert reader([]).end == Complete()


@given(item=st.text(), row=st.dictionaries(st.text(), st.integers() | st.text()))
def test_a_tagged_row_is_the_row_with_its_item(item: str, row: dict[str, Any]) -> None:
    row.pop("_item", None)
    assert json.loads(tagged(json.dumps(row).encode(), item)) == {"_item": item, **row}
