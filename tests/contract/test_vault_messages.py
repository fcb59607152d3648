"""The protocol of the keyholder: what both sides may say, and that nothing else is understood."""

from __future__ import annotations

import inspect
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.secret import Secret
from crypto.transit import TransitKey, seal
from domain import errors
from domain.errors import KeyholderUnavailable, ProtocolViolation, SealBroken, TenantryError
from domain.events import Retained
from vault.messages import (
    LENGTH_BYTES,
    MAX_BODY,
    MOST_STEP,
    Answer,
    CreateDataKey,
    CreateVaultKey,
    Destroyed,
    DestroyVaultKey,
    Done,
    Health,
    Healthy,
    Hello,
    Left,
    ListVaultKeys,
    PublicKeys,
    PublicKeySet,
    Refused,
    Release,
    ReleaseDataKey,
    Request,
    Resealed,
    ResealStep,
    RetireVaultKey,
    RotateVaultKey,
    Sealed,
    VaultKey,
    VaultKeySet,
    body_length,
    data_key_context,
    decode_answer,
    decode_request,
    encode,
    raised,
    refusal,
    release_context,
)

RELEASE = Release(run="r", tenant="t", slot="entra", activation="a", epoch=1, purpose="graph", transit_key=bytes(32))
THUMBPRINT = "A" * 43
REQUESTS: list[Request] = [
    Hello(),
    RELEASE,
    ReleaseDataKey(tenant="t", transit_key=bytes(32), run="r", activation="a", epoch=1),
    ReleaseDataKey(tenant="t", transit_key=bytes(32), operator="alice", why="ticket 7"),
    CreateDataKey(tenant="t", actor="operator:alice", cause="c"),
    CreateVaultKey(actor="operator:alice", cause="c"),
    RotateVaultKey(replaces=THUMBPRINT, actor="operator:alice", cause="c"),
    ResealStep(actor="operator:alice", cause="c"),
    ResealStep(actor="operator:alice", cause="c", after="credential-1", limit=MOST_STEP),
    RetireVaultKey(key=THUMBPRINT, actor="operator:alice", cause="c"),
    DestroyVaultKey(key=THUMBPRINT, actor="operator:alice", cause="c"),
    ListVaultKeys(count=True),
    PublicKeys(),
    Health(),
]
ANSWERS: list[Answer] = [
    Hello(pid=7),
    Sealed(payload=b"\x00\xff", key="k"),
    PublicKeySet(jwks="{}"),
    Done(key="k"),
    Destroyed(key="k"),
    Destroyed(key="k", retained=Retained(name="vault-1", until=datetime.now(UTC), why="purge-protected")),
    Resealed(after="", resealed=3, remaining=0, left=(Left("credential-1", "revoked"),), left_count=1),
    VaultKeySet(keys=(VaultKey(key="k", version=1, state="former", custody="file", sealed=7),)),
    Healthy(pid=7, active="k", keys=2, custody="file"),
    Refused(error="Throttled", args=("graph", 2.5, 3, None)),
]


def body(message: Any) -> bytes:
    return encode(message)[LENGTH_BYTES:]


def test_every_request_and_every_answer_is_tried_here() -> None:
    assert {type(message) for message in REQUESTS} == set(get_args(Request))
    assert {type(message) for message in ANSWERS} == set(get_args(Answer))


@pytest.mark.parametrize("message", REQUESTS, ids=repr)
def test_a_request_arrives_as_it_was_sent(message: Request) -> None:
    frame = encode(message)
    assert body_length(frame[:LENGTH_BYTES]) == len(frame) - LENGTH_BYTES
    assert decode_request(frame[LENGTH_BYTES:]) == message


@pytest.mark.parametrize("message", ANSWERS, ids=repr)
def test_an_answer_arrives_as_it_was_sent(message: Answer) -> None:
    assert decode_answer(body(message)) == message


@pytest.mark.parametrize("message", [answer for answer in ANSWERS if not isinstance(answer, Hello)], ids=repr)
def test_an_answer_is_no_request(message: Answer) -> None:
    with pytest.raises(ProtocolViolation):
        decode_request(body(message))


CHANGED: dict[str, dict[str, Any]] = {
    "an unknown message": {"message": "take-everything"},
    "an unknown member": {"extra": 1},
    "a short transit key": {"transit_key": bytes(31)},
    "a long transit key": {"transit_key": bytes(33)},
    "a negative epoch": {"epoch": -1},
    "an epoch that is text": {"epoch": "1"},
    "an endless name": {"run": "r" * 257},
    "an empty name": {"tenant": ""},
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_request_with_a_wrong_member_is_not_understood(what: str) -> None:
    members = msgspec.msgpack.decode(body(RELEASE)) | CHANGED[what]
    with pytest.raises(ProtocolViolation):
        decode_request(msgspec.msgpack.encode(members))


@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_violation_and_nothing_else(garbage: bytes) -> None:
    for decode in (decode_request, decode_answer):
        with suppress(ProtocolViolation):
            decode(garbage)


@given(st.sampled_from(REQUESTS), st.data())
def test_a_cut_off_request_is_not_understood(message: Request, data: st.DataObject) -> None:
    whole = body(message)
    with pytest.raises(ProtocolViolation):
        decode_request(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_deeply_nested_input_is_not_understood() -> None:
    with pytest.raises(ProtocolViolation):
        decode_request(b"\x91" * 100_000)


@pytest.mark.parametrize("prefix", [b"", b"\0\0\1", bytes(4), (MAX_BODY + 1).to_bytes(4), b"\xff" * 4, b"GET "])
def test_a_length_that_is_not_allowed_is_refused_before_anything_is_read(prefix: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        body_length(prefix)


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolViolation):
        encode(Sealed(payload=bytes(MAX_BODY), key="k"))


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TenantryError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_of_ours_reaches_the_caller_as_itself(kind: type[TenantryError]) -> None:
    facts = ("one", 2, 3.5, "four")
    arrived = raised(decode_refusal(kind(*facts)))
    assert type(arrived) is kind
    assert arrived.args == facts
    assert str(arrived) == str(kind(*facts))


def decode_refusal(error: TenantryError) -> Refused:
    answer = decode_answer(body(refusal(error)))
    assert isinstance(answer, Refused)
    return answer


@pytest.mark.parametrize("name", ["SystemExit", "ClassVar", "__name__", "Nonsense"])
def test_a_name_that_is_no_error_of_ours_is_a_keyholder_that_cannot_be_used(name: str) -> None:
    assert type(raised(Refused(error=name))) is KeyholderUnavailable


@pytest.mark.parametrize("limit", [0, MOST_STEP + 1, -1])
def test_a_step_of_no_or_endless_size_is_not_understood(limit: int) -> None:
    members = msgspec.msgpack.decode(body(ResealStep(actor="a", cause="c"))) | {"limit": limit}
    with pytest.raises(ProtocolViolation):
        decode_request(msgspec.msgpack.encode(members))


names = st.text(max_size=8)


@given(
    st.tuples(names, names, names, names, st.integers(0, 9)), st.tuples(names, names, names, names, st.integers(0, 9))
)
def test_two_releases_have_the_same_context_only_when_they_are_the_same(
    one: tuple[str, str, str, str, int], other: tuple[str, str, str, str, int]
) -> None:
    assert (release_context(*one) == release_context(*other)) == (one == other)
    assert release_context(*one) != data_key_context(one[0], one[1])


def test_what_was_sealed_for_one_activation_does_not_open_as_another_s() -> None:
    key = TransitKey.generate()
    sealed = seal(key.public, Secret(b"x"), release_context("r", "t", "entra", "a", 1))
    assert key.open(sealed, release_context("r", "t", "entra", "a", 1)).reveal() == b"x"
    for other in (release_context("r", "t", "entra", "a", 2), data_key_context("t", "r")):
        with pytest.raises(SealBroken):
            key.open(sealed, other)


def test_a_data_key_that_was_sealed_for_one_receiver_does_not_open_as_another_s() -> None:
    key = TransitKey.generate()
    sealed = seal(key.public, Secret(b"x"), data_key_context("t", "r"))
    assert key.open(sealed, data_key_context("t", "r")).reveal() == b"x"
    for other in (data_key_context("t", "alice"), data_key_context("u", "r")):
        with pytest.raises(SealBroken):
            key.open(sealed, other)
