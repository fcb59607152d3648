"""What a reader's rows become: sealed batches, and rows again."""

from __future__ import annotations

import pytest
from batches import encode_batch
from hypothesis import given
from hypothesis import strategies as st

from crypto.batch import MOST_ROW_BYTES, BatchEncoder, decode_batch
from crypto.datakey import new_data_key
from domain.errors import ProtocolViolation, SealBroken
from domain.ids import Dataset, TenantId

TENANT = TenantId("11111111-2222-3333-4444-555555555555")
OTHER = TenantId("99999999-2222-3333-4444-555555555555")
USERS = Dataset("entra.users")
ROWS = st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=20)


@given(rows=ROWS, cut=st.integers(0, 20))
def test_rows_come_back_as_they_were_however_they_were_added(rows: list[bytes], cut: int) -> None:
    key = new_data_key()
    encoder = BatchEncoder(key, TENANT, USERS)
    encoder.add(rows[:cut])
    encoder.add(rows[cut:])

    sealed, facts = encoder.finish()

    assert decode_batch(sealed, key, TENANT, USERS, facts.digest) == rows
    assert facts == encode_batch(rows, key, TENANT, USERS)[1]
    assert (facts.rows, facts.row_bytes, facts.stored_bytes) == (
        len(rows),
        sum(map(len, rows)) + len(rows),
        len(sealed),
    )
    assert facts.key == f"{TENANT}/{USERS}/{facts.digest}"


def test_a_batch_opens_only_as_itself() -> None:
    key = new_data_key()
    sealed, facts = encode_batch([b'{"id":1}'], key, TENANT, USERS)
    flipped = bytearray(sealed)
    flipped[40] ^= 1
    wrong = [
        (sealed, key, OTHER, USERS, facts.digest),
        (sealed, key, TENANT, Dataset("entra.groups"), facts.digest),
        (sealed, key, TENANT, USERS, "0" * 64),
        (sealed, new_data_key(), TENANT, USERS, facts.digest),
        (bytes(flipped), key, TENANT, USERS, facts.digest),
        (sealed[:-1], key, TENANT, USERS, facts.digest),
        (b"", key, TENANT, USERS, facts.digest),
    ]
    for sealed_bytes, data_key, tenant, dataset, digest in wrong:
        with pytest.raises(SealBroken):
            decode_batch(sealed_bytes, data_key, tenant, dataset, digest)


def test_a_row_that_would_come_back_as_two_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="newline"):
        encode_batch([b'{"id":1}', b'{\n"id":2}'], new_data_key(), TENANT, USERS)


def test_what_could_not_be_read_again_is_not_written() -> None:
    encoder = BatchEncoder(new_data_key(), TENANT, USERS)
    encoder.row_bytes = MOST_ROW_BYTES - 9
    encoder.add([b'{"id":1}'])
    with pytest.raises(ProtocolViolation, match="at once"):
        encoder.add([b"{}"])


def test_a_batch_shows_nothing_of_its_rows() -> None:
    sealed, _ = encode_batch([b'{"userPrincipalName":"ada@contoso.example"}'], new_data_key(), TENANT, USERS)

    assert b"contoso" not in sealed
