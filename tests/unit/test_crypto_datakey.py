"""A data key seals one tenant's data to the place where it belongs."""

from __future__ import annotations

import secrets
from functools import cache
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from crypto import envelope
from crypto.datakey import OVERHEAD, from_secret, key_id, new_data_key, unwrap, wrap, wrapped_to
from crypto.keyring import Keyring, public_of
from crypto.secret import Secret
from domain.errors import EnvelopeRejected, Malformed, SealBroken
from domain.ids import ENTRA, TenantId

TENANT = TenantId(str(uuid4()))
OTHER_TENANT = TenantId(str(uuid4()))
CONTEXT = b"entra.users/1"


@cache
def vault() -> Keyring:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return Keyring({public_of(key).thumbprint: key}, public_of(key).thumbprint)


@given(plaintext=st.binary(max_size=3000), context=st.binary(max_size=100))
def test_what_is_sealed_comes_back_with_the_same_context(plaintext: bytes, context: bytes) -> None:
    key = new_data_key()
    sealed = key.seal(plaintext, context)
    assert len(sealed) == len(plaintext) + OVERHEAD
    assert key.open(sealed, context) == plaintext


def test_the_sealed_form_is_version_key_id_nonce_ciphertext() -> None:
    """Opened here with the primitive alone."""
    key = new_data_key()
    sealed = key.seal(b"rows", CONTEXT)
    assert sealed[0] == 1
    assert sealed[1:9].hex() == key.id == key_id(sealed)
    aead = AESGCM(key.to_secret().reveal())
    assert aead.decrypt(sealed[9:21], sealed[21:], sealed[:21] + CONTEXT) == b"rows"


def test_a_changed_byte_anywhere_is_noticed() -> None:
    key = new_data_key()
    sealed = bytearray(key.seal(b"some rows", CONTEXT))
    for at in range(len(sealed)):
        sealed[at] ^= 1
        with pytest.raises(SealBroken):
            key.open(bytes(sealed), CONTEXT)
        sealed[at] ^= 1


def test_sealed_bytes_cut_at_any_length_are_noticed() -> None:
    key = new_data_key()
    sealed = key.seal(b"some rows", CONTEXT)
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            key.open(sealed[:length], CONTEXT)


def test_sealed_bytes_moved_elsewhere_do_not_open() -> None:
    key = new_data_key()
    sealed = key.seal(b"rows", CONTEXT)
    for elsewhere in (b"", b"entra.users/2", CONTEXT + b"\x00"):
        with pytest.raises(SealBroken, match="moved"):
            key.open(sealed, elsewhere)
    with pytest.raises(SealBroken, match="another key"):
        new_data_key().open(sealed, CONTEXT)


def test_sealing_twice_never_gives_the_same_bytes() -> None:
    key = new_data_key()
    assert len({key.seal(b"rows", CONTEXT) for _ in range(100)}) == 100


def test_the_id_follows_from_the_key_and_shows_nothing_of_it() -> None:
    key = new_data_key()
    again = from_secret(key.to_secret())
    assert again.id == key.id
    assert again.open(key.seal(b"rows", CONTEXT), CONTEXT) == b"rows"
    assert key.to_secret().reveal().hex() not in repr(key)
    assert key.id in repr(key)


def test_only_32_bytes_are_a_data_key() -> None:
    for length in (0, 16, 31, 33):
        with pytest.raises(Malformed):
            from_secret(Secret(secrets.token_bytes(length)))


def test_a_wrapped_key_unwraps_for_its_tenant_only() -> None:
    key = new_data_key()
    wrapped = wrap(key, tenant=TENANT, key=vault().active)
    assert unwrap(wrapped, tenant=TENANT, keyring=vault()).id == key.id
    assert wrapped_to(wrapped) == vault().active.thumbprint
    with pytest.raises(EnvelopeRejected, match="another tenant"):
        unwrap(wrapped, tenant=OTHER_TENANT, keyring=vault())


def test_a_credential_is_no_data_key_and_a_data_key_no_credential() -> None:
    wrapped = wrap(new_data_key(), tenant=TENANT, key=vault().active)
    sealed = envelope.seal(Secret(secrets.token_bytes(32)), tenant=TENANT, slot=ENTRA, key=vault().active)
    with pytest.raises(EnvelopeRejected, match="typ"):
        unwrap(sealed, tenant=TENANT, keyring=vault())
    with pytest.raises(EnvelopeRejected, match="typ"):
        envelope.open_(wrapped, tenant=TENANT, slot=ENTRA, keyring=vault())
