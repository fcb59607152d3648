"""A checkpoint is believed only as it was signed, by the key that is trusted."""

from __future__ import annotations

import base64
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.checkpoint import Checkpoint, LedgerKey, key_id, sign_checkpoint, verifier_key, verify_checkpoint
from crypto.merkle import EMPTY_ROOT
from crypto.secret import Secret
from domain.errors import CheckpointRejected, Malformed

ORIGIN = "tenantry.example/ledger"
KEY = LedgerKey.generate()
ROOT = secrets.token_bytes(32)
NOTE = sign_checkpoint(ORIGIN, 42, ROOT, KEY)


def test_a_signed_checkpoint_verifies() -> None:
    assert verify_checkpoint(NOTE, KEY.public) == Checkpoint(ORIGIN, 42, ROOT)
    assert verify_checkpoint(sign_checkpoint(ORIGIN, 0, EMPTY_ROOT, KEY), KEY.public).size == 0


def test_the_note_has_the_published_form() -> None:
    body, _, signatures = NOTE.partition("\n\n")
    assert body.split("\n") == [ORIGIN, "42", base64.b64encode(ROOT).decode()]
    dash, name, signature = signatures.removesuffix("\n").split(" ")
    assert (dash, name) == ("\u2014", ORIGIN)
    assert len(base64.b64decode(signature)) == 4 + 64
    assert base64.b64decode(signature)[:4] == key_id(ORIGIN, KEY.public)


def test_the_key_id_is_that_of_the_signed_note_example() -> None:
    """The verifier key of golang.org/x/mod/sumdb/note's documentation, whose hash names its own key."""
    name, key_hash, encoded = ["PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
    public = base64.b64decode(encoded)[1:]
    assert key_id(name, public).hex() == key_hash
    assert verifier_key(name, public) == f"{name}+{key_hash}+{encoded}"


def test_another_key_does_not_vouch() -> None:
    with pytest.raises(CheckpointRejected, match="another key"):
        verify_checkpoint(NOTE, LedgerKey.generate().public)
    with pytest.raises(CheckpointRejected):
        verify_checkpoint(NOTE, b"")


def test_a_changed_missing_or_added_character_anywhere_is_noticed() -> None:
    for at, character in enumerate(NOTE):
        other = "A" if character != "A" else "B"
        for forged in (NOTE[:at] + other + NOTE[at + 1 :], NOTE[:at] + NOTE[at + 1 :], NOTE[:at] + "0" + NOTE[at:]):
            with pytest.raises(CheckpointRejected):
                verify_checkpoint(forged, KEY.public)


def test_a_signature_does_not_carry_over_to_another_size_root_or_origin() -> None:
    signature = NOTE.partition("\n\n")[2]
    for other in (
        sign_checkpoint(ORIGIN, 43, ROOT, KEY),
        sign_checkpoint(ORIGIN, 42, EMPTY_ROOT, KEY),
        sign_checkpoint("other", 42, ROOT, KEY),
    ):
        with pytest.raises(CheckpointRejected):
            verify_checkpoint(other.partition("\n\n")[0] + "\n\n" + signature, KEY.public)


@given(note=st.text(max_size=200))
def test_no_text_fails_in_another_way(note: str) -> None:
    with pytest.raises(CheckpointRejected):
        verify_checkpoint(note, KEY.public)


@given(origin=st.from_regex(r"[^\s+]{1,20}", fullmatch=True), size=st.integers(0, 10**19 - 1))
def test_what_is_signed_verifies_whatever_its_origin_and_size(origin: str, size: int) -> None:
    note = sign_checkpoint(origin, size, ROOT, KEY)
    assert verify_checkpoint(note, KEY.public) == Checkpoint(origin, size, ROOT)


def test_a_note_that_names_no_text_is_rejected() -> None:
    with pytest.raises(CheckpointRejected):
        verify_checkpoint(NOTE.replace(ORIGIN, "ledger\ud800"), KEY.public)


def test_an_endless_note_is_not_read() -> None:
    with pytest.raises(CheckpointRejected):
        verify_checkpoint(NOTE + "\u2014 " * 5000, KEY.public)


def test_a_ledger_key_survives_its_secret() -> None:
    again = LedgerKey.from_secret(KEY.to_secret())
    assert again.public == KEY.public
    assert sign_checkpoint(ORIGIN, 42, ROOT, again) == NOTE
    assert KEY.to_secret().reveal().hex() not in repr(KEY)
    with pytest.raises(Malformed):
        LedgerKey.from_secret(Secret(b"short"))


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [
        ("", 1, ROOT),
        ("two words", 1, ROOT),
        ("a+b", 1, ROOT),
        ("line\n", 1, ROOT),
        ("x\ud800", 1, ROOT),
        ("x", -1, ROOT),
        ("x", 10**19, ROOT),
        ("x", 1, b""),
    ],
)
def test_what_cannot_be_written_is_not_signed(origin: str, size: int, root: bytes) -> None:
    with pytest.raises(Malformed):
        sign_checkpoint(origin, size, root, KEY)
