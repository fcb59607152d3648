"""The fold of batches into rows, against a model that keeps decoded objects in a dict."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from batches import encode_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.datakey import new_data_key
from domain.errors import EventUnreadable, SealBroken
from domain.events import (
    AnyEvent,
    BatchRecorded,
    CollectionCompleted,
    CollectionNotPossible,
    CollectionRestarted,
    CollectionStarted,
    CollectionTruncated,
    Mode,
    PlanChanged,
    Recorded,
)
from domain.ids import Dataset, RunId, TenantId, collection_stream
from eventstore.batches import open_batch_store
from eventstore.store import open_event_store
from query.merge import key_of
from query.state import DatasetShape, Row, fold_batches, items_of, known_at, rows_of

TENANT = TenantId("11111111-2222-3333-4444-555555555555")
USERS = Dataset("entra.users")
START = datetime(2026, 3, 1, tzinfo=UTC)
RUN = RunId("20260301T000000-00000001")
FULL = DatasetShape(key="id", mode="full")
DELTA = DatasetShape(key="id", mode="delta")
WINDOW = DatasetShape(key="id", mode="window")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Written:
    """A collection stream in memory. Each event comes a minute after the one before."""

    def __init__(self) -> None:
        self.store = open_event_store("memory:", os.urandom(32))
        self.batches = open_batch_store("memory://")
        self.key = new_data_key()
        self.version = 0

    @property
    def now(self) -> datetime:
        return START + timedelta(minutes=self.version)

    def record(self, event: AnyEvent) -> datetime:
        stream = collection_stream(TENANT, USERS)
        self.store.append(stream, self.version, [event], at=self.now, actor="test", cause=RUN)
        at = self.now
        self.version += 1
        return at

    async def batch(self, *rows: dict[str, Any]) -> datetime:
        sealed, facts = encode_batch([json.dumps(row).encode() for row in rows], self.key, TENANT, USERS)
        await self.batches.put(facts.key, sealed)
        return self.record(
            BatchRecorded(
                run=RUN,
                key=facts.key,
                data_key=facts.data_key,
                rows=facts.rows,
                row_bytes=facts.row_bytes,
                stored_bytes=facts.stored_bytes,
                digest=facts.digest,
                requests=1,
                after=None,
                cursor="c",
            )
        )

    async def collect(self, mode: Mode, *batches: list[dict[str, Any]], since: str | None = None) -> datetime:
        """A complete pass."""
        self.record(CollectionStarted(run=RUN, mode=mode, since=since))
        for rows in batches:
            await self.batch(*rows)
        return self.record(COMPLETED)

    async def table(self, shape: DatasetShape, as_of: datetime | None = None) -> list[dict[str, Any]]:
        return sorted([json.loads(row.raw) for row in await self.rows(shape, as_of)], key=json.dumps)

    async def rows(self, shape: DatasetShape, as_of: datetime | None = None) -> list[Row]:
        passes = fold_batches(known_at(self.store.read(collection_stream(TENANT, USERS)), as_of))
        return [row async for row in rows_of(passes, self.batches, TENANT, USERS, self.key, shape)]


COMPLETED = CollectionCompleted(run=RUN, rows=0, requests=1, restarts=0, seconds=1.0)
TRUNCATED = CollectionTruncated(run=RUN, reason="throttled", detail="", cursor=None, rows=0, requests=1, seconds=1.0)
NOT_POSSIBLE = CollectionNotPossible(run=RUN, reason="unlicensed", detail="", requests=1, seconds=1.0)


async def test_what_a_complete_full_pass_did_not_see_is_gone() -> None:
    written = Written()
    await written.collect("full", [{"id": "a"}, {"id": "b"}])
    await written.collect("full", [{"id": "b"}])
    assert await written.table(FULL) == [{"id": "b"}]


@pytest.mark.parametrize("end", [TRUNCATED, NOT_POSSIBLE, None])
async def test_an_incomplete_full_pass_removes_nothing(end: AnyEvent | None) -> None:
    written = Written()
    await written.collect("full", [{"id": "a"}, {"id": "b", "v": 1}])
    written.record(CollectionStarted(run=RUN, mode="full"))
    await written.batch({"id": "b", "v": 2}, {"id": "c"})
    if end is not None:
        written.record(end)
    assert await written.table(FULL) == [{"id": "a"}, {"id": "b", "v": 2}, {"id": "c"}]


async def test_rows_read_before_a_restart_are_not_part_of_a_complete_pass() -> None:
    written = Written()
    written.record(CollectionStarted(run=RUN, mode="full"))
    await written.batch({"id": "gone"})
    written.record(CollectionRestarted(run=RUN, reason="page-token-expired", mode="full"))
    seen = await written.batch({"id": "a"})
    written.record(COMPLETED)
    assert await written.table(FULL, seen) == [{"id": "a"}, {"id": "gone"}]
    assert await written.table(FULL) == [{"id": "a"}]


async def test_a_delta_changes_only_the_properties_it_names() -> None:
    written = Written()
    await written.collect("full", [{"id": "a", "name": "Ann", "mail": "a@x"}])
    await written.collect("delta", [{"id": "a", "mail": None}, {"id": "b"}], since="link")
    assert await written.table(DELTA) == [{"id": "a", "name": "Ann", "mail": None}, {"id": "b"}]


async def test_a_removed_object_comes_back_only_with_what_its_new_row_says() -> None:
    written = Written()
    await written.collect("full", [{"id": "a", "name": "Ann"}, {"id": "b"}])
    removed = await written.collect("delta", [{"id": "a", "@removed": {"reason": "changed"}}], since="1")
    await written.collect("delta", [{"id": "a", "mail": "a@x"}], since="2")
    assert await written.table(DELTA, removed) == [{"id": "b"}]
    assert await written.table(DELTA) == [{"id": "a", "mail": "a@x"}, {"id": "b"}]


async def test_members_add_up_over_rows_and_passes_and_leave_when_removed() -> None:
    written = Written()
    first = {"id": "g", "name": "G", "members@delta": [{"@odata.type": "#u", "id": "1"}, {"id": "2"}]}
    further = {"id": "g", "members@delta": [{"id": "3"}]}
    at = await written.collect("full", [first], [further])
    assert await written.table(DELTA, at) == [{"id": "g", "name": "G", "members": ["1", "2", "3"]}]
    change = {"id": "g", "members@delta": [{"id": "2", "@removed": {"reason": "deleted"}}, {"id": "4"}]}
    await written.collect("delta", [change], [{"id": "g", "name": "H"}], since="link")
    assert await written.table(DELTA) == [{"id": "g", "name": "H", "members": ["1", "3", "4"]}]


async def test_a_removed_member_does_not_remove_its_group() -> None:
    written = Written()
    await written.collect("full", [{"id": "g", "members@delta": [{"id": "1", "@removed": {"reason": "deleted"}}]}])
    assert await written.table(DELTA) == [{"id": "g", "members": []}]


async def test_a_truncated_first_round_takes_no_member_away() -> None:
    written = Written()
    await written.collect("full", [{"id": "g", "a": 1, "members@delta": [{"id": "1"}, {"id": "2"}]}])
    written.record(CollectionStarted(run=RUN, mode="full"))
    await written.batch({"id": "g", "b": 2, "members@delta": [{"id": "3"}]})
    written.record(TRUNCATED)
    assert await written.table(DELTA) == [{"id": "g", "b": 2, "members": ["1", "2", "3"]}]


async def test_what_looks_like_links_but_is_not_stays_as_it_was_sent() -> None:
    written = Written()
    row = {"id": "g", "odd@delta": "text", "name": '@delta" and "@removed"'}
    await written.collect("full", [row])
    assert await written.table(DELTA) == [row]


async def test_a_row_shows_the_bytes_that_were_sent_and_where_they_come_from() -> None:
    written = Written()
    await written.collect("full", [{"id": "a", "n": 1.50, "é": "\ud7ff"}])
    rows = await written.rows(DELTA)
    assert [(row.raw, row.collected_at, row.run) for row in rows] == [
        (b'{"id": "a", "n": 1.5, "\\u00e9": "\\ud7ff"}', START + timedelta(minutes=1), RUN)
    ]


async def test_a_log_keeps_what_it_has_seen_and_counts_overlaps_once() -> None:
    written = Written()
    await written.collect("window", [{"id": "1"}, {"id": "2", "risk": "none"}])
    await written.collect("window", [{"id": "2", "risk": "high"}, {"id": "3"}])
    await written.collect("window", [])
    assert await written.table(WINDOW) == [{"id": "1"}, {"id": "2", "risk": "high"}, {"id": "3"}]


async def test_rows_of_items_are_told_apart_by_item_and_key() -> None:
    written = Written()
    owners = [{"id": "u", "_item": "g1"}, {"id": "u", "_item": "g2"}]
    await written.collect("per-item", owners)
    assert await written.table(DatasetShape(key="_item,id", mode="per-item")) == owners


@pytest.mark.parametrize("key", [None, "absent"])
async def test_rows_without_a_key_are_told_apart_by_their_bytes(key: str | None) -> None:
    written = Written()
    await written.collect("full", [{"v": 1}, {"v": 2}, {"v": 1}])
    assert await written.table(DatasetShape(key=key, mode="full")) == [{"v": 1}, {"v": 2}]


async def test_a_batch_of_another_key_is_refused() -> None:
    written = Written()
    await written.collect("full", [{"id": "a"}])
    written.key = new_data_key()
    with pytest.raises(SealBroken):
        await written.table(FULL)


async def test_items_are_the_keys_present_now() -> None:
    written = Written()
    await written.collect("full", [{"id": "b"}, {"id": "a", "guid": "g"}, {"id": "c"}])
    await written.collect("delta", [{"id": "c", "@removed": {"reason": "deleted"}}], since="link")
    asked = (fold_batches(written.store.read(collection_stream(TENANT, USERS))), written.batches, TENANT, USERS)
    assert await items_of(*asked, written.key, DELTA, "id") == ["a", "b"]
    assert await items_of(*asked, written.key, DELTA, "guid") == ["g"]


@pytest.mark.parametrize(
    ("row", "key"),
    [(b'{"k": 7}', "7"), (b'{"k": "x"}', "x"), (b'{"k": null}', None), (b"{}", None), (b'{"k": 1e999}', None)],
)
def test_a_row_is_known_by_its_key_or_else_by_its_bytes(row: bytes, key: str | None) -> None:
    assert key_of(("k",))(row) == (key or row)
    with_more = b'{"j": 1, ' + row[1:] if len(row) > 2 else b'{"j": 1}'
    assert key_of(("k", "j"))(with_more) == ((key, "1") if key else with_more)


@pytest.mark.parametrize("event", [COMPLETED, PlanChanged(datasets=(), cadence_seconds=60)])
def test_an_event_outside_a_pass_is_refused(event: AnyEvent) -> None:
    stream = collection_stream(TENANT, USERS)
    recorded = Recorded(stream=stream, version=1, position=1, at=START, actor="test", cause=RUN, event=event)
    with pytest.raises(EventUnreadable):
        fold_batches([recorded])


# The model: a script of steps, each of which is one event, and dicts.

IDS = st.sampled_from("abcde")
VALUES = st.integers(0, 3)
OBJECTS = st.builds(lambda id_, v, w: {"id": id_} | {"v": v} | ({"w": w} if w else {}), IDS, VALUES, VALUES)
REMOVALS = st.builds(lambda id_: {"id": id_, "@removed": {"reason": "deleted"}}, IDS)
MEMBERS = st.dictionaries(IDS, st.booleans(), max_size=3)
GROUPS = st.builds(
    lambda row, members: (
        row | {"members@delta": [{"id": m} | ({} if here else {"@removed": {}}) for m, here in members.items()]}
    ),
    OBJECTS,
    MEMBERS,
)
Step = tuple[str, Any]


@st.composite
def scripts(draw: st.DrawFn, rows: st.SearchStrategy[dict[str, Any]], modes: tuple[Mode, ...]) -> list[Step]:
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 4))):
        mode = draw(st.sampled_from(modes))
        steps.append(("start", mode))
        for part in range(draw(st.integers(1, 2))):
            if part:
                mode = draw(st.sampled_from(["full", mode]))
                steps.append(("restart", mode))
            steps.extend(("batch", batch) for batch in draw(st.lists(st.lists(rows, max_size=4), max_size=3)))
        steps.append(("end", draw(st.sampled_from([COMPLETED, TRUNCATED]))))
    return steps[: draw(st.integers(1, len(steps)))]


async def play(written: Written, steps: list[Step]) -> list[datetime]:
    times = []
    for kind, what in steps:
        match kind:
            case "start":
                at = written.record(CollectionStarted(run=RUN, mode=what, since="link" if what == "delta" else None))
            case "restart":
                at = written.record(CollectionRestarted(run=RUN, reason="expired", mode=what))
            case "batch":
                at = await written.batch(*what)
            case _:
                at = written.record(what)
        times.append(at)
    return times


def naive(steps: list[Step], *, merging: bool) -> list[dict[str, Any]]:
    """Recomputed from nothing for each pass, on plain dicts; `None` stands for an object that is gone."""
    known: dict[str, Any] = {}
    passes: list[tuple[list[tuple[str, list[dict[str, Any]]]], bool]] = []
    for kind, what in steps:
        match kind:
            case "start":
                passes.append(([(what, [])], False))
            case "restart":
                passes[-1][0].append((what, []))
            case "batch":
                passes[-1][0][-1][1].extend(what)
            case _:
                passes[-1] = (passes[-1][0], what is COMPLETED)
    for attempts, complete in passes:
        if complete and attempts[-1][0] == "full":
            known = naive_seen({}, attempts[-1][1], merging)
            continue
        for mode, rows in attempts:
            if mode == "delta":
                known = naive_seen(known, rows, merging)
                continue
            for id_, row in naive_seen({}, rows, merging).items():
                before = (known.get(id_) or {}).get("members")
                known[id_] = (
                    row if row is None or before is None else row | {"members": before | row.get("members", {})}
                )
    shown = [row for row in known.values() if row is not None]
    for row in shown:
        if "members" in row:
            row["members"] = sorted(member for member, here in row["members"].items() if here)
    return sorted(shown, key=lambda row: str(row["id"]))


def naive_seen(known: dict[str, Any], rows: list[dict[str, Any]], merging: bool) -> dict[str, Any]:
    known = dict(known)
    for sent in rows:
        row = dict(sent)
        before = (known.get(row["id"]) if merging else None) or {}
        if "@removed" in row:
            known[row["id"]] = None
            continue
        if "members@delta" in row:
            links = {link["id"]: "@removed" not in link for link in row.pop("members@delta")}
            row["members"] = before.get("members", {}) | links
        known[row["id"]] = before | row
    return known


def compare(steps: list[Step], shape: DatasetShape) -> None:
    async def run() -> None:
        written = Written()
        times = await play(written, steps)
        for count, at in enumerate(times, 1):
            found = await written.table(shape, at)
            for row in found:
                if "members" in row:
                    row["members"].sort()
            model = naive(steps[:count], merging=shape.mode == "delta")
            assert sorted(found, key=lambda row: str(row["id"])) == model

    asyncio.run(run())


@settings(max_examples=60, deadline=None)
@given(scripts(OBJECTS, ("full",)))
def test_full_passes_fold_as_the_model_at_every_time(steps: list[Step]) -> None:
    compare(steps, FULL)


@settings(max_examples=100, deadline=None)
@given(scripts(st.one_of(OBJECTS, REMOVALS, GROUPS), ("full", "delta")))
def test_delta_passes_fold_as_the_model_at_every_time(steps: list[Step]) -> None:
    compare(steps, DELTA)


@settings(max_examples=40, deadline=None)
@given(scripts(OBJECTS, ("window",)))
def test_logs_fold_as_the_last_reading_of_each_row(steps: list[Step]) -> None:
    async def run() -> None:
        written = Written()
        await play(written, steps)
        last = {row["id"]: row for kind, rows in steps if kind == "batch" for row in rows}
        assert await written.table(WINDOW) == sorted(last.values(), key=json.dumps)

    asyncio.run(run())
