"""The commands that read: what they show of what is on record, and that they say when they leave something out."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from desk import CONTOSO, RUN, SUSPENDED, Desk, one_line

from domain.events import (
    AnyEvent,
    BatchRecorded,
    CollectionCompleted,
    CollectionStarted,
    CollectionTruncated,
    DatasetOutcome,
    RunFinished,
    RunRequested,
    RunStarted,
)
from domain.ids import Dataset, RunId, TenantId, collection_stream, new_run_id, run_stream

AT = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
USERS, GROUPS, SKUS = Dataset("entra.users"), Dataset("entra.groups"), Dataset("entra.subscribed-skus")
INCOMPLETE, WHOLE = RunId(RUN), RunId("20261123T203000-0a1b2c3d")
TENANT = TenantId(CONTOSO)


def record(desk: Desk, stream: str, *events: AnyEvent, cause: str) -> None:
    store = desk.opened().store
    store.append(stream, len(store.read(stream)), events, at=AT, actor="operator:test", cause=cause)  # type: ignore[arg-type]


def requested(desk: Desk, number: int) -> list[RunId]:
    """Runs, each a minute after the one before."""
    runs = [new_run_id(AT + timedelta(minutes=one), one) for one in range(number)]
    for run in runs:
        record(desk, run_stream(run), RunRequested(run=run, tenant=TENANT, datasets=(USERS,)), cause=run)
    return runs


@pytest.fixture
def nights(desk: Desk) -> Desk:
    """A run that could not read the groups to their end, and a later one of the users alone."""
    cut = DatasetOutcome(
        dataset=GROUPS, outcome="truncated", reason="throttled", detail="Graph asks for fewer requests.", rows=7
    )
    whole = DatasetOutcome(dataset=USERS, outcome="complete", rows=1234, requests=3, seconds=1.5)
    for run, outcomes in ((INCOMPLETE, (whole, cut)), (WHOLE, (whole,))):
        datasets = tuple(one.dataset for one in outcomes)
        record(
            desk,
            run_stream(run),
            RunRequested(run=run, tenant=TENANT, datasets=datasets),
            RunStarted(activation="a", epoch=1),
            cause=run,
        )
        for one in outcomes:
            ended: AnyEvent = CollectionCompleted(
                run=run, rows=one.rows, requests=one.requests, restarts=0, seconds=one.seconds
            )
            if one.outcome == "truncated":
                ended = CollectionTruncated(
                    run=run, reason="throttled", detail="", cursor=None, rows=one.rows, requests=1, seconds=1.0
                )
            events = CollectionStarted(run=run, mode="full"), batch(run, one.rows), ended
            record(desk, collection_stream(TENANT, one.dataset), *events, cause=run)
        record(desk, run_stream(run), RunFinished(outcomes=outcomes), cause=run)
    return desk


def batch(run: RunId, rows: int) -> BatchRecorded:
    return BatchRecorded(
        run=run,
        key="key",
        data_key="data-key",
        rows=rows,
        row_bytes=rows,
        stored_bytes=rows,
        digest="00",
        requests=1,
        after=None,
        cursor="end",
    )


def test_a_run_is_shown_with_the_outcome_of_each_dataset(nights: Desk) -> None:
    said = nights.type("run", "show", INCOMPLETE)

    assert (said.code, said.err) == (3, "")
    title, heading, *lines = said.out.splitlines()
    assert title == f"{INCOMPLETE} of {CONTOSO}: finished"
    assert heading.split() == ["dataset", "outcome", "rows", "requests", "seconds", "why"]
    assert [line.split(None, 5) for line in map(str.strip, lines)] == [
        ["entra.users", "complete", "1,234", "3", "1.5", "-"],
        ["entra.groups", "truncated", "7", "0", "0.0", "Graph asks for fewer requests."],
    ]


def test_a_run_is_shown_to_programs_as_it_is_listed(nights: Desk) -> None:
    said = nights.type("run", "show", WHOLE, "--json")
    listed = json.loads(nights.type("run", "list", "--json").out)

    assert (said.code, said.err) == (0, "")
    assert [run["run"] for run in listed] == [WHOLE, INCOMPLETE]
    assert json.loads(said.out) == listed[0]
    (one,) = listed[0]["datasets"]
    assert (one["dataset"], one["outcome"], one["rows"], one["reason"]) == ("entra.users", "complete", 1234, None)


def test_the_log_of_a_run_has_what_it_caused_and_nothing_else(nights: Desk) -> None:
    said = nights.type("audit", "log", "--run", WHOLE, "--json")

    assert (said.code, said.err) == (0, "")
    events: list[dict[str, Any]] = json.loads(said.out)
    assert [one["event"] for one in events] == [
        "run-requested/1",
        "run-started/1",
        "collection-started/1",
        "batch-recorded/1",
        "collection-completed/1",
        "run-finished/1",
    ]
    assert {(one["run"], one["tenant"]) for one in events} == {(WHOLE, CONTOSO)}
    assert INCOMPLETE not in said.out
    assert "run-finished/1" in nights.type("audit", "log", "--run", WHOLE).out


def test_datasets_are_listed_with_their_state_and_with_rows_where_events_tell_them(nights: Desk) -> None:
    ended = CollectionCompleted(run=WHOLE, rows=12, requests=1, restarts=0, seconds=1.0)
    licences = CollectionStarted(run=WHOLE, mode="full"), batch(WHOLE, 12), ended
    record(nights, collection_stream(TENANT, SKUS), *licences, cause=WHOLE)

    said = nights.type("data", "datasets", "--json")

    assert (said.code, said.err) == (0, "")
    assert [
        (one["tenant"], one["dataset"], one["table"], one["state"], one["rows"], one["reason"])
        for one in json.loads(said.out)
    ] == [
        (CONTOSO, "entra.users", "entra_users", "complete", None, ""),
        (CONTOSO, "entra.groups", "entra_groups", "truncated", None, "throttled"),
        (CONTOSO, "entra.subscribed-skus", "entra_subscribed_skus", "complete", 12, ""),
    ]
    shown = nights.type("data", "datasets", "--tenant", CONTOSO).out
    assert "entra_groups" in shown
    assert json.loads(nights.type("data", "datasets", "--tenant", SUSPENDED, "--json").out) == []


def test_before_anything_was_collected_the_datasets_are_those_of_the_catalog(desk: Desk) -> None:
    said = desk.type("data", "datasets")

    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Nothing collected yet. The catalog: entra.organization, ")
    assert json.loads(desk.type("data", "datasets", "--json").out) == []


def test_a_checkpoint_kept_elsewhere_shows_that_the_end_was_cut_off(desk: Desk, tmp_path: Path) -> None:
    before, witness = desk.directory / "before", tmp_path / "checkpoint.txt"
    shutil.copytree(desk.state, before, ignore=shutil.ignore_patterns("*.sock"))
    assert desk.type("tenant", "plan", CONTOSO, "--every", "6").code == 0

    written = desk.type("audit", "checkpoint", "--out", str(witness))
    told = json.loads(desk.type("audit", "checkpoint", "--json").out)

    assert (written.code, written.err) == (0, "")
    assert " ".join(written.out.split()) == f"Wrote {witness}. Public key of the ledger: {told['key']}"
    assert witness.read_text() == told["note"]
    assert desk.type("audit", "verify", "--witness", str(witness)).code == 0
    assert desk.type("audit", "verify", "--state", str(before)).code == 0
    cut = desk.type("audit", "verify", "--state", str(before), "--witness", str(witness), "--json")
    assert cut.code == 1
    assert json.loads(cut.out)["ok"] is False


LEFT_OUT = "tenantry: These are the newest 2; there are older ones. A higher --limit shows more, --tenant fewer.\n"


@pytest.mark.parametrize("option", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("words", [("run", "list"), ("audit", "log", "--tenant", CONTOSO)], ids=" ".join)
def test_a_list_says_that_it_leaves_out_older_ones(desk: Desk, words: tuple[str, ...], option: list[str]) -> None:
    before = len(json.loads(desk.type(*words, "--json").out))
    runs = requested(desk, 3)

    cut = desk.type(*words, *option, "--limit", "2")
    whole = desk.type(*words, *option, "--limit", str(before + 3))

    assert (cut.code, cut.err) == (0, LEFT_OUT)
    assert one_line(cut.err)
    assert (whole.code, whole.err) == (0, "")
    assert [run in cut.out for run in runs] == [False, True, True]
    assert all(run in whole.out for run in runs)
    if option:
        assert len(json.loads(cut.out)) == 2
        assert len(json.loads(whole.out)) == before + 3


def test_more_runs_than_are_listed_unasked_are_not_left_out_in_silence(desk: Desk) -> None:
    requested(desk, 101)

    said = desk.type("run", "list", "--json")

    assert len(json.loads(said.out)) == 100
    assert "the newest 100; there are older ones" in said.err
