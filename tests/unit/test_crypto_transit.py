"""What travels between processes opens for the one it was sealed to, for the purpose it was sealed for."""

from __future__ import annotations

import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crypto.secret import Secret
from crypto.transit import OVERHEAD, TransitKey, context, seal
from domain.errors import Malformed, SealBroken

PURPOSE = context("release", "run", "tenant")


@settings(deadline=None)
@given(value=st.binary(max_size=3000))
def test_what_is_sealed_to_a_key_opens_with_it(value: bytes) -> None:
    key = TransitKey.generate()
    sealed = seal(key.public, Secret(value), PURPOSE)
    assert len(sealed) == len(value) + OVERHEAD
    assert key.open(sealed, PURPOSE).reveal() == value


def test_another_key_or_another_purpose_does_not_open_it() -> None:
    key = TransitKey.generate()
    sealed = seal(key.public, Secret("token"), PURPOSE)
    with pytest.raises(SealBroken):
        TransitKey.generate().open(sealed, PURPOSE)
    for purpose in (b"", context("release", "run"), context("release", "run", "tenant", "")):
        with pytest.raises(SealBroken):
            key.open(sealed, purpose)


def test_a_changed_or_missing_byte_anywhere_is_noticed() -> None:
    key = TransitKey.generate()
    sealed = bytearray(seal(key.public, Secret("token"), PURPOSE))
    for at in range(len(sealed)):
        with pytest.raises(SealBroken):
            key.open(bytes(sealed[:at]), PURPOSE)
        sealed[at] ^= 1
        with pytest.raises(SealBroken):
            key.open(bytes(sealed), PURPOSE)
        sealed[at] ^= 1


def test_an_answer_of_absurd_size_is_not_opened() -> None:
    with pytest.raises(SealBroken, match="too long"):
        TransitKey.generate().open(bytes(1024 * 1024 + 1), PURPOSE)


def test_more_than_can_be_opened_is_not_sealed() -> None:
    key = TransitKey.generate()
    most = Secret(bytes(1024 * 1024 - 48))
    assert key.open(seal(key.public, most, PURPOSE), PURPOSE) == most
    with pytest.raises(Malformed, match="at most"):
        seal(key.public, Secret(bytes(1024 * 1024 - 47)), PURPOSE)


def test_a_sealed_value_does_not_show_it() -> None:
    word = secrets.token_urlsafe(20)
    assert word.encode() not in seal(TransitKey.generate().public, Secret(word), PURPOSE)


def test_a_transit_key_shows_only_its_public_half() -> None:
    private = X25519PrivateKey.generate()
    key = TransitKey(private)
    assert len(key.public) == 32
    assert private.private_bytes_raw().hex() not in repr(key)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), bytes(32), (1).to_bytes(32, "little")])
def test_what_is_no_public_key_is_not_sealed_to(public: bytes) -> None:
    with pytest.raises(Malformed):
        seal(public, Secret("token"), PURPOSE)


@given(one=st.lists(st.text(max_size=6), max_size=4), other=st.lists(st.text(max_size=6), max_size=4))
def test_different_parts_never_make_the_same_context(one: list[str], other: list[str]) -> None:
    assume(one != other)
    assert context(*one) != context(*other)
