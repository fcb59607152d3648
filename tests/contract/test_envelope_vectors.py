"""What opens everywhere opens here, and what must open nowhere does not: `vectors/envelopes.json`.

The file holds envelopes made by three implementations and by an attacker. The keyholder and JavaScript are asked the
same questions next door. The private key in the file was made for it and protects nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from joserfc import jwe
from vectors import (
    BAD,
    GOOD,
    SEALED,
    VECTORS,
    WHY,
    changed_anywhere,
    keyring,
    named,
    of_jwcrypto,
    opened_secret,
    oversize,
)

from cli.sealing import SealedCredential, parse_sealed
from crypto import credential as payloads
from crypto import envelope
from crypto.jwe import MAX_ENVELOPE, SIZES
from crypto.keyring import fingerprint, parse_public
from domain.errors import EnvelopeRejected, Unreadable
from vault.policy import digest_of


def opened(vector: dict[str, str]) -> bytes:
    """The payload, once it is a credential."""
    with opened_secret(vector) as secret:
        payloads.decode(secret)
        return secret.reveal()


# the file


def test_the_file_covers_both_encryptions_every_kind_every_maker_and_every_reason() -> None:
    assert {(good["made_by"], good["enc"]) for good in GOOD} == {
        ("python", "A256GCM"),
        ("python", "A256CBC-HS512"),
        ("seal.js", "A256GCM"),
        ("jwcrypto", "A256GCM"),
        ("jwcrypto", "A256CBC-HS512"),
    }
    kinds = {type(payloads.decode(opened_secret(good))) for good in GOOD}
    assert kinds == {payloads.AppCertificate, payloads.AppSecret, payloads.ServiceAccount}
    assert max(len(opened(good)) for good in GOOD) == 16 * 1024
    assert {bad["why"] for bad in BAD} == set(WHY) == set(VECTORS["words"])
    assert len({named(vector) for vector in [*GOOD, *BAD]}) == len(GOOD) + len(BAD)


def test_the_published_key_is_read_and_named_as_written() -> None:
    key = parse_public(json.dumps({"keys": [VECTORS["public_key"]]}))
    assert key == keyring().active
    assert fingerprint(key) == VECTORS["fingerprint"]
    example = VECTORS["thumbprint"]
    key = parse_public(json.dumps({"kty": "RSA", "n": example["modulus"], "e": "AQAB"}))
    assert (key.thumbprint, fingerprint(key)) == (example["thumbprint"], example["fingerprint"])


def test_a_credential_is_written_as_the_clients_write_it() -> None:
    vector = VECTORS["payload"]
    credential = msgspec.convert(vector["credential"], payloads.ServiceAccount)
    assert payloads.encode(credential).reveal() == bytes.fromhex(vector["payload"])
    assert credential.password.encode() == bytes.fromhex(vector["password"])


def test_the_published_example_of_cbc_is_what_python_opens_and_makes() -> None:
    vector = {name: bytes.fromhex(text) for name, text in VECTORS["cbc_hs512"].items() if name != "source"}
    content = jwe.JWERegistry(algorithms=["A256CBC-HS512"]).get_enc("A256CBC-HS512")
    sealed = content.encrypt(vector["plaintext"], vector["key"], vector["iv"], vector["header"])
    assert sealed == (vector["ciphertext"], vector["tag"])
    opened = content.decrypt(vector["ciphertext"], vector["tag"], vector["key"], vector["iv"], vector["header"])
    assert opened == vector["plaintext"]


# the file that travels


SPOILT = {"digest": "cut or changed on the way", "member": "missing required field|Expected `str`|unknown field"}
"""The file's word for a reason to the words of `Unreadable`."""


def parsed(vector: dict[str, Any]) -> SealedCredential:
    return parse_sealed(json.dumps(vector["file"]), Path("sealed.json"))


def test_the_digest_is_the_published_one() -> None:
    vector = VECTORS["digest"]
    assert digest_of(vector["text"].encode()) == vector["digest"]


@pytest.mark.parametrize("good", SEALED["good"], ids=named)
def test_a_sealed_credential_of_any_maker_is_read_and_its_envelope_opens(good: dict[str, Any]) -> None:
    sealed = parsed(good)
    payload = json.loads(opened({"tenant": sealed.tenant, "slot": sealed.slot, "envelope": sealed.envelope}))
    assert (payload["kind"], payload["client_id"]) == (sealed.kind, sealed.identity)


@pytest.mark.parametrize("bad", SEALED["bad"], ids=named)
def test_a_sealed_credential_that_was_cut_or_changed_on_the_way_is_not_read(bad: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match=SPOILT[bad["why"]]):
        parsed(bad)


def test_the_spoilt_files_cover_every_reason() -> None:
    assert {bad["why"] for bad in SEALED["bad"]} == set(SPOILT) == set(SEALED["words"])
    assert {good["made_by"] for good in SEALED["good"]} == {"python", "seal.js"}


# opening in Python


@pytest.mark.parametrize("good", GOOD, ids=named)
def test_an_envelope_of_any_maker_opens(good: dict[str, str]) -> None:
    payload = opened(good)
    assert hashlib.sha256(payload).hexdigest() == good["sha256"]
    assert payload.decode() == good.get("payload", payload.decode())
    header = envelope.read_header(good["envelope"])
    assert (header.tenant, header.slot, header.enc) == (good["tenant"], good["slot"], good["enc"])


@pytest.mark.parametrize("bad", BAD, ids=named)
def test_an_envelope_that_opens_nowhere_does_not_open_here(bad: dict[str, str]) -> None:
    with pytest.raises(EnvelopeRejected, match=WHY[bad["why"]]):
        opened(bad)


def test_an_envelope_over_64_kib_is_not_looked_at() -> None:
    assert len(oversize()["envelope"]) == MAX_ENVELOPE + 1
    with pytest.raises(EnvelopeRejected, match="is longer than"):
        opened(oversize())


@pytest.mark.parametrize("enc", SIZES)
def test_a_byte_changed_anywhere_in_a_vector_is_noticed(enc: str) -> None:
    for changed in changed_anywhere(of_jwcrypto(enc)):
        with pytest.raises(EnvelopeRejected):
            opened(changed)


@pytest.mark.parametrize("maker", ["python", "seal.js", "jwcrypto"])
def test_a_vector_cut_at_any_length_is_noticed(maker: str) -> None:
    good = next(good for good in GOOD if good["made_by"] == maker)
    for length in range(len(good["envelope"])):
        with pytest.raises(EnvelopeRejected):
            opened(good | {"envelope": good["envelope"][:length]})
