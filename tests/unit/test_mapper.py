from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import EventUnreadable, Malformed
from domain.events import EVENT_TYPES, AnyEvent, BatchRecorded, TenantSuspended, stored_name
from domain.ids import RunId, Stream
from eventstore.mapper import SealedMapper, Stored

KEY = os.urandom(32)
AT = datetime(2026, 11, 22, 20, 30, 0, 123456, tzinfo=UTC)
STREAM = Stream("run:20261122T203000-0a1b2c3d")
GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden" / "events.jsonl").read_text().splitlines()]
"""One stored event of every name that was ever in use, as bytes. Lines are added, never changed or taken away."""


def seal_by_the_book(plain: bytes, stream: str, version: int, name: str) -> Stored:
    """The documented format, written a second time."""
    nonce = os.urandom(12)
    place = msgspec.msgpack.encode([stream, version, name])
    prefix = b"\x01" + hashlib.sha256(b"tenantry event key\x00" + KEY).digest()[:8]
    return Stored(7, stream, version, name, prefix + nonce + AESGCM(KEY).encrypt(nonce, plain, place))


def stored(event: AnyEvent, *, stream: Stream = STREAM, version: int = 3) -> Stored:
    state = SealedMapper(KEY).seal(stream, version, event, at=AT, actor="operator:ann", cause="command-1")
    return Stored(7, stream, version, stored_name(event), state)


@pytest.mark.parametrize("line", GOLDEN, ids=lambda line: line["name"])
def test_every_name_ever_stored_is_still_read(line: dict[str, Any]) -> None:
    recorded = SealedMapper(KEY).open(seal_by_the_book(bytes.fromhex(line["state"]), STREAM, 3, line["name"]))
    assert (recorded.stream, recorded.version, recorded.position) == (STREAM, 3, 7)
    assert (recorded.at, recorded.actor, recorded.cause) == (AT, "operator:ann", "command-1")
    assert json.loads(msgspec.json.encode(recorded.event)) == line["event"]


def test_every_registered_name_has_a_golden_event() -> None:
    assert {line["name"] for line in GOLDEN} >= set(EVENT_TYPES)


@given(
    cursor=st.text(max_size=50),
    rows=st.integers(0, 2**63 - 1),
    version=st.integers(1, 2**40),
    cause=st.text(max_size=9),
)
def test_an_event_is_read_as_it_was_written(cursor: str, rows: int, version: int, cause: str) -> None:
    event = BatchRecorded(
        run=RunId("20261122T203000-0a1b2c3d"),
        key="k",
        data_key="d",
        rows=rows,
        row_bytes=1,
        stored_bytes=1,
        digest="",
        requests=1,
        after=None,
        cursor=cursor,
    )
    mapper = SealedMapper(KEY)
    state = mapper.seal(STREAM, version, event, at=AT, actor="vault", cause=cause)
    recorded = mapper.open(Stored(1, STREAM, version, "batch-recorded/1", state))
    assert (recorded.event, recorded.cause, recorded.version) == (event, cause, version)


def test_a_state_shows_nothing_of_its_event_and_is_never_the_same_twice() -> None:
    event = TenantSuspended(reason="the quick brown fox")
    first, second = stored(event).state, stored(event).state
    assert first != second
    assert b"fox" not in first
    assert b"ann" not in first


@pytest.mark.parametrize(
    "moved",
    [
        {"stream": "run:20261122T203000-ffffffff"},
        {"version": 4},
        {"name": "tenant-offboarded/1"},
    ],
    ids=lambda moved: next(iter(moved)),
)
def test_a_state_opens_in_its_own_place_only(moved: dict[str, Any]) -> None:
    there = msgspec.structs.replace(stored(TenantSuspended(reason="x")), **moved)
    with pytest.raises(EventUnreadable, match="does not belong here"):
        SealedMapper(KEY).open(there)


def test_no_byte_of_a_state_can_be_changed() -> None:
    whole = stored(TenantSuspended(reason="x"))
    mapper = SealedMapper(KEY)
    for index in range(len(whole.state)):
        changed = bytearray(whole.state)
        changed[index] ^= 1
        with pytest.raises(EventUnreadable):
            mapper.open(msgspec.structs.replace(whole, state=bytes(changed)))


@pytest.mark.parametrize("length", range(0, 40, 3))
def test_a_cut_state_is_unreadable(length: int) -> None:
    whole = stored(TenantSuspended(reason="x"))
    with pytest.raises(EventUnreadable):
        SealedMapper(KEY).open(msgspec.structs.replace(whole, state=whole.state[:length]))


@pytest.mark.parametrize("name", ["antigravity:fly", "tenant-suspended/2", "", "tenant-suspended/1\u00e9"])
def test_an_unregistered_name_is_refused_before_anything_is_opened(name: str) -> None:
    plain = msgspec.msgpack.encode([AT, "a", "c", TenantSuspended(reason="x")])
    with pytest.raises(EventUnreadable, match="not registered"):
        SealedMapper(KEY).open(seal_by_the_book(plain, STREAM, 1, name))


def test_an_event_under_the_name_of_another_is_refused() -> None:
    plain = msgspec.msgpack.encode([AT, "a", "c", TenantSuspended(reason="x")])
    with pytest.raises(EventUnreadable, match="does not have its form"):
        SealedMapper(KEY).open(seal_by_the_book(plain, STREAM, 1, "tenant-offboarded/1"))


def test_an_old_name_is_brought_up_step_by_step() -> None:
    def first_to_second(old: dict[str, Any]) -> dict[str, Any]:
        return {"event": "tenant-paused/2", "reason": old["why"]}

    def second_to_present(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "event": "tenant-suspended/1"}

    upcasters = {"tenant-paused/1": first_to_second, "tenant-paused/2": second_to_present}
    old = seal_by_the_book(
        msgspec.msgpack.encode([AT, "a", "c", {"event": "tenant-paused/1", "why": "asked to"}]),
        STREAM,
        1,
        "tenant-paused/1",
    )
    assert SealedMapper(KEY, upcasters).open(old).event == TenantSuspended(reason="asked to")


def test_an_upcaster_that_leads_nowhere_is_said() -> None:
    upcasters = {"tenant-paused/1": lambda old: old}
    plain = msgspec.msgpack.encode([AT, "a", "c", {"event": "tenant-paused/1"}])
    with pytest.raises(EventUnreadable, match="leads to tenant-paused/1"):
        SealedMapper(KEY, upcasters).open(seal_by_the_book(plain, STREAM, 1, "tenant-paused/1"))


def test_a_key_of_another_length_is_refused_and_no_key_is_shown() -> None:
    with pytest.raises(Malformed):
        SealedMapper(KEY[:16])
    assert KEY.hex() not in repr(SealedMapper(KEY))
