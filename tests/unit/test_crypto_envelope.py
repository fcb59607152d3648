"""An envelope opens untouched, in its place, with its key, or not at all."""

from __future__ import annotations

import base64
import json
import secrets
import string
from collections.abc import Callable
from functools import cache
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey, OctKey, RSAKey
from joserfc.util import json_b64encode

from crypto import keyring as keyrings
from crypto.envelope import EnvelopeHeader, open_, read_header, seal
from crypto.keyring import Keyring, VaultPublicKey, fingerprint, parse_public, public_jwks, public_of
from crypto.secret import Secret
from domain.errors import EnvelopeRejected, Malformed, Unknown, Unreadable
from domain.ids import ENTRA, EXCHANGE_SERVER, TenantId

TENANT = TenantId(str(uuid4()))
ACTIVE = "active"
OTHER_TENANT = TenantId(str(uuid4()))
BASE64URL = string.ascii_letters + string.digits + "-_"


@cache
def private_key(which: str) -> rsa.RSAPrivateKey:
    """2048 bits keep thousands of openings fast."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def vault() -> Keyring:
    keys = {public_of(key).thumbprint: key for key in (private_key(ACTIVE), private_key("retired"))}
    return Keyring(keys, public_of(private_key(ACTIVE)).thumbprint)


@cache
def payload() -> Secret:
    return Secret(secrets.token_bytes(64))


@cache
def sealed(cbc: bool = False) -> str:
    return seal(payload(), tenant=TENANT, slot=ENTRA, key=vault().active, cbc=cbc)


def opened(envelope: str) -> Secret:
    return open_(envelope, tenant=TENANT, slot=ENTRA, keyring=vault())


def header_of(envelope: str) -> dict[str, Any]:
    first = envelope.split(".", maxsplit=1)[0]
    members: dict[str, Any] = json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    return members


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def made(header: dict[str, Any], key: RSAKey | None = None) -> str:
    """What joserfc makes of this header when nobody restrains it."""
    registry = jwe.JWERegistry(
        algorithms=[*jwe.JWERegistry.algorithms["alg"], *jwe.JWERegistry.algorithms["enc"], "DEF"],
        strict_check_header=False,
    )
    recipient = key or RSAKey.import_key(private_key(ACTIVE).public_key())
    return jwe.encrypt_compact(header, payload().reveal(), recipient, registry=registry)


@pytest.mark.parametrize("cbc", [False, True])
def test_an_envelope_opens_for_its_tenant_and_slot(cbc: bool) -> None:
    assert opened(sealed(cbc)) == payload()


def test_the_header_has_exactly_six_members_and_names_the_key() -> None:
    assert header_of(sealed()) == {
        "alg": "RSA-OAEP-256",
        "enc": "A256GCM",
        "kid": vault().active.thumbprint,
        "typ": "tenantry-credential+jwe",
        "tid": TENANT,
        "slot": ENTRA,
    }
    assert header_of(sealed(cbc=True))["enc"] == "A256CBC-HS512"
    expected = EnvelopeHeader(kid=vault().active.thumbprint, tenant=TENANT, slot=ENTRA, enc="A256GCM")
    assert read_header(sealed()) == expected


def test_the_order_of_header_members_is_free() -> None:
    backwards = dict(reversed(header_of(sealed()).items()))
    assert opened(made(backwards)) == payload()


def test_no_two_envelopes_of_one_payload_are_alike() -> None:
    one, other = (seal(payload(), tenant=TENANT, slot=ENTRA, key=vault().active).split(".") for _ in range(2))
    assert one[0] == other[0]
    assert not set(one[1:]) & set(other[1:])


def test_the_plaintext_is_nowhere_in_the_envelope() -> None:
    word = secrets.token_urlsafe(30)
    envelope = seal(Secret(word), tenant=TENANT, slot=ENTRA, key=vault().active)
    parts = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in envelope.split(".")]
    assert not any(word.encode() in part for part in [*parts, envelope.encode()])


def test_an_envelope_moved_to_another_tenant_or_slot_does_not_open() -> None:
    with pytest.raises(EnvelopeRejected, match="another tenant"):
        open_(sealed(), tenant=OTHER_TENANT, slot=ENTRA, keyring=vault())
    with pytest.raises(EnvelopeRejected, match="another slot"):
        open_(sealed(), tenant=TENANT, slot=EXCHANGE_SERVER, keyring=vault())


def test_a_header_rewritten_for_another_tenant_does_not_open() -> None:
    _, *rest = sealed().split(".")
    forged = ".".join([json_b64encode(header_of(sealed()) | {"tid": OTHER_TENANT}).decode(), *rest])
    with pytest.raises(EnvelopeRejected, match="changed"):
        open_(forged, tenant=OTHER_TENANT, slot=ENTRA, keyring=vault())


@pytest.mark.parametrize("cbc", [False, True])
def test_a_character_changed_anywhere_is_noticed(cbc: bool) -> None:
    envelope = sealed(cbc)
    for at, character in enumerate(envelope):
        other = BASE64URL[(BASE64URL.find(character) + 1) % len(BASE64URL)]
        with pytest.raises(EnvelopeRejected):
            opened(envelope[:at] + other + envelope[at + 1 :])


def test_an_envelope_cut_at_any_length_is_noticed() -> None:
    envelope = sealed()
    for length in range(len(envelope)):
        with pytest.raises(EnvelopeRejected):
            opened(envelope[:length])


@pytest.mark.parametrize("segment", range(5))
@pytest.mark.parametrize("cbc", [False, True])
def test_a_bit_flipped_in_any_byte_of_a_segment_is_noticed(segment: int, cbc: bool) -> None:
    parts = sealed(cbc).split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[segment] + "=" * (-len(parts[segment]) % 4)))
    for at in range(len(raw)):
        raw[at] ^= 1 << at % 8
        with pytest.raises(EnvelopeRejected):
            opened(".".join([*parts[:segment], encoded(bytes(raw)), *parts[segment + 1 :]]))
        raw[at] ^= 1 << at % 8


@pytest.mark.parametrize("segment", range(5))
def test_a_segment_of_another_envelope_does_not_fit(segment: int) -> None:
    other = seal(payload(), tenant=TENANT, slot=EXCHANGE_SERVER, key=vault().active).split(".")
    parts = sealed().split(".")
    parts[segment] = other[segment]
    with pytest.raises(EnvelopeRejected):
        opened(".".join(parts))


def test_a_shortened_tag_does_not_pass_for_a_tag() -> None:
    *rest, tag = sealed().split(".")
    for length in range(16):
        short = encoded(base64.urlsafe_b64decode(tag + "==")[:length])
        with pytest.raises(EnvelopeRejected, match="wrong size"):
            opened(".".join([*rest, short]))


HEADER_TRICKS: dict[str, dict[str, Any]] = {
    "compressed": {"zip": "DEF"},
    "critical member": {"crit": ["kid"]},
    "key in the header": {"jwk": {"kty": "oct", "k": "AA"}},
    "key by address": {"jku": "https://keys.example/jwks.json"},
    "unknown member": {"note": "x"},
    "SHA-1 padding": {"alg": "RSA-OAEP"},
    "PKCS#1 padding": {"alg": "RSA1_5"},
    "shorter key": {"enc": "A128GCM"},
    "other CBC": {"enc": "A128CBC-HS256"},
    "data key type": {"typ": "tenantry-datakey+jwe"},
    "no type": {"typ": "JWE"},
    "unknown vault key": {"kid": "x" * 43},
}


@pytest.mark.parametrize("trick", HEADER_TRICKS)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_a_genuine_jwe_with_another_header_is_rejected(trick: str) -> None:
    header = header_of(sealed()) | HEADER_TRICKS[trick]
    with pytest.raises(EnvelopeRejected, match=r"members|its (alg|enc|typ)|does not have"):
        opened(made(header))


def test_direct_and_agreed_keys_are_rejected() -> None:
    shared = OctKey.import_key(secrets.token_bytes(32))
    direct = jwe.encrypt_compact({"alg": "dir", "enc": "A256GCM"}, b"x", shared, algorithms=["dir", "A256GCM"])
    agreed = jwe.encrypt_compact(
        {"alg": "ECDH-ES", "enc": "A256GCM"}, b"x", ECKey.generate_key("P-256"), algorithms=["ECDH-ES", "A256GCM"]
    )
    for envelope in (direct, agreed):
        _, *rest = envelope.split(".")
        claimed = json_b64encode(header_of(sealed()) | {"alg": header_of(envelope)["alg"]}).decode()
        for form in (envelope, ".".join([claimed, *rest]), ".".join([sealed().split(".")[0], *rest])):
            with pytest.raises(EnvelopeRejected):
                opened(form)


RAW_HEADERS: dict[str, bytes] = {
    "alg none": b'{"alg":"none"}',
    "empty": b"",
    "no object": b"[]",
    "null": b"null",
    "nested": b'{"alg":' + b"[" * 700 + b"]" * 50,
    "number": b'{"alg":1,"enc":"A256GCM","kid":"k","typ":"t","tid":"t","slot":"s"}',
    "bytes that are no text": b'{"alg":"\xff"}',
    "another encoding": json.dumps({"alg": "RSA-OAEP-256"}).encode("utf-16"),
}


@pytest.mark.parametrize("raw", RAW_HEADERS.values(), ids=RAW_HEADERS)
def test_a_header_that_is_not_the_declared_form_is_rejected(raw: bytes) -> None:
    _, *rest = sealed().split(".")
    with pytest.raises(EnvelopeRejected):
        opened(".".join([encoded(raw), *rest]))


@pytest.mark.parametrize("member", ["alg", "enc", "kid", "typ", "tid", "slot"])
def test_a_missing_or_doubled_header_member_is_rejected(member: str) -> None:
    header = header_of(sealed())
    _, *rest = sealed().split(".")
    lacking = json.dumps({name: value for name, value in header.items() if name != member})
    doubled = json.dumps(header)[:-1] + f', "{member}": {json.dumps(header[member])}}}'
    escaped = json.dumps(header)[:-1] + f', "\\u{ord(member[0]):04x}{member[1:]}": {json.dumps(header[member])}}}'
    for text in (lacking, doubled, escaped):
        with pytest.raises(EnvelopeRejected, match="member"):
            opened(".".join([encoded(text.encode()), *rest]))


def test_what_is_no_envelope_is_rejected() -> None:
    for text in (
        "",
        ".",
        "....",
        "a.b.c.d.e",
        sealed() + ".",
        sealed() + "=",
        " " + sealed(),
        sealed() + "\n",
        "é" * 9,
    ):
        with pytest.raises(EnvelopeRejected):
            opened(text)
        with pytest.raises(EnvelopeRejected):
            read_header(text[:-1] + "\n")


def test_an_envelope_over_64_kib_is_rejected_unread() -> None:
    with pytest.raises(EnvelopeRejected, match="longer"):
        opened("A" * (64 * 1024 + 1))
    with pytest.raises(EnvelopeRejected, match="header is longer"):
        opened("A" * 2000 + sealed())


def test_a_payload_that_would_not_fit_a_key_vault_secret_is_not_sealed() -> None:
    assert len(seal(Secret(bytes(16 * 1024)), tenant=TENANT, slot=ENTRA, key=vault().active)) < 25_000
    with pytest.raises(Malformed):
        seal(Secret(bytes(16 * 1024 + 1)), tenant=TENANT, slot=ENTRA, key=vault().active)


def test_a_header_that_names_no_tenant_or_slot_is_not_read() -> None:
    for change in ({"tid": "contoso"}, {"slot": "other"}, {"tid": TENANT.upper().replace("0", "A")}):
        with pytest.raises(EnvelopeRejected):
            read_header(made(header_of(sealed()) | change))


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet=BASE64URL + '.=+ {"', max_size=300))
def test_no_text_makes_opening_fail_in_another_way(text: str) -> None:
    with pytest.raises(EnvelopeRejected):
        opened(text)
    with pytest.raises(EnvelopeRejected):
        opened(".".join([sealed().split(".")[0], text]))


@settings(max_examples=30, deadline=None)
@given(value=st.binary(min_size=1, max_size=2000), cbc=st.booleans())
def test_any_payload_comes_back(value: bytes, cbc: bool) -> None:
    envelope = seal(Secret(value), tenant=TENANT, slot=ENTRA, key=vault().active, cbc=cbc)
    assert opened(envelope).reveal() == value


def test_a_retired_key_still_opens_and_a_foreign_one_does_not() -> None:
    retired = public_of(private_key("retired"))
    assert opened(seal(payload(), tenant=TENANT, slot=ENTRA, key=retired)) == payload()
    foreign = public_of(private_key("foreign"))
    with pytest.raises(EnvelopeRejected, match="does not have"):
        opened(seal(payload(), tenant=TENANT, slot=ENTRA, key=foreign))


class DistantKey:
    """A private half that another process asks for: it unwraps, and is nowhere here."""

    def __init__(self, unwrap: Callable[[bytes], bytes]) -> None:
        self.public = private_key(ACTIVE).public_key()
        self.unwrap = unwrap


def distant(unwrap: Callable[[bytes], bytes]) -> Keyring:
    return Keyring({vault().active.thumbprint: DistantKey(unwrap)}, vault().active.thumbprint)


@pytest.mark.parametrize("cbc", [False, True])
def test_opening_asks_a_distant_key_for_the_content_key_only(cbc: bool) -> None:
    asked: list[bytes] = []

    def unwrap(encrypted_key: bytes) -> bytes:
        asked.append(encrypted_key)
        return keyrings.LocalKey(private_key(ACTIVE)).unwrap(encrypted_key)

    assert open_(sealed(cbc), tenant=TENANT, slot=ENTRA, keyring=distant(unwrap)) == payload()
    assert asked == [base64.urlsafe_b64decode(sealed(cbc).split(".")[1] + "==")]


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_content_key_of_another_size_is_rejected(size: int) -> None:
    with pytest.raises(EnvelopeRejected, match="content key"):
        open_(sealed(), tenant=TENANT, slot=ENTRA, keyring=distant(lambda _: bytes(size)))


def test_a_content_key_that_is_not_its_own_is_rejected() -> None:
    for cbc, size in ((False, 32), (True, 64)):
        with pytest.raises(EnvelopeRejected, match="changed"):
            open_(sealed(cbc), tenant=TENANT, slot=ENTRA, keyring=distant(lambda _, size=size: bytes(size)))  # type: ignore[misc]


def test_what_joserfc_opens_and_what_is_opened_here_is_the_same() -> None:
    """An independent reader of the same bytes."""
    for cbc in (False, True):
        theirs = jwe.decrypt_compact(
            sealed(cbc),
            RSAKey.import_key(private_key(ACTIVE)),
            registry=jwe.JWERegistry(
                algorithms=["RSA-OAEP-256", "A256GCM", "A256CBC-HS512"], strict_check_header=False
            ),
        )
        assert theirs.plaintext == opened(sealed(cbc)).reveal()


def test_an_envelope_that_names_another_key_of_the_ring_does_not_open() -> None:
    header = header_of(sealed()) | {"kid": public_of(private_key("retired")).thumbprint}
    with pytest.raises(EnvelopeRejected):
        opened(made(header))


def test_the_published_keys_read_back_with_the_active_one_first() -> None:
    text = public_jwks(vault().public)
    assert parse_public(text) == vault().active
    assert [key["kid"] for key in json.loads(text)["keys"]] == [key.thumbprint for key in vault().public]
    assert not {"d", "p", "q"} & set(json.loads(text)["keys"][0])
    assert parse_public(json.dumps(json.loads(text)["keys"][1])) == public_of(private_key("retired"))


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    """The example of RFC 7638 §3.1."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86z"
        "wu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5Js"
        "GY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMic"
        "AtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-"
        "bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csF"
        "Cur-kEgU8awapJzKnqDKgw"
    )
    key = parse_public(json.dumps({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RSA-OAEP-256"}))
    assert key.thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_a_fingerprint_is_eight_words_of_the_thumbprint() -> None:
    """127.0.0.1 is lusab-babad in arXiv:0901.4016."""
    digest = bytes([127, 0, 0, 1]) * 8
    key = VaultPublicKey(encoded(digest), vault().active.jwk)
    assert fingerprint(key) == "-".join(["lusab", "babad"] * 4)
    assert fingerprint(vault().active) != fingerprint(public_of(private_key("retired")))


def jwk(**changes: object) -> str:
    members = json.loads(public_jwks([vault().active]))["keys"][0]
    return json.dumps(members | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        '{"keys": []}',
        '{"keys": [1]}',
        '{"keys": {}}',
        "[" * 5000,
        '{"keys": ' + "[" * 5000,
        '{"kty": "\ud800"}',
        jwk(kty="EC"),
        jwk(use="sig"),
        jwk(alg="RSA-OAEP"),
        jwk(kid="x" * 43),
        jwk(n=None),
        jwk(n="AQAB"),
        jwk(n="_" * 3000),
        jwk(n="!!"),
        jwk(e="Aw"),
        " " * 70_000,
    ],
)
def test_what_is_no_vault_key_is_not_sealed_to(text: str) -> None:
    with pytest.raises(Malformed):
        parse_public(text)


def test_a_weak_key_is_not_sealed_to() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key().public_numbers()  # noqa: S505
    modulus = encoded(weak.n.to_bytes(128))
    with pytest.raises(Malformed, match="1024"):
        parse_public(json.dumps({"kty": "RSA", "n": modulus, "e": "AQAB"}))


def test_a_private_key_offered_as_public_is_refused_and_not_quoted() -> None:
    private = RSAKey.import_key(private_key(ACTIVE)).as_dict(private=True)
    with pytest.raises(Malformed) as refusal:
        parse_public(json.dumps(private))
    assert str(private["d"]) not in repr(refusal.value)
    assert "disclosed" in str(refusal.value)
    with pytest.raises(Malformed, match="disclosed"):
        parse_public(json.dumps({"keys": [json.loads(jwk()), private]}))


def test_a_private_key_survives_its_encrypted_file() -> None:
    passphrase = Secret(secrets.token_urlsafe(16))
    pem = keyrings.encode_private(private_key(ACTIVE), passphrase)
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert public_of(keyrings.load_private(pem, passphrase)) == vault().active
    with pytest.raises(Unreadable):
        keyrings.load_private(pem, Secret("wrong"))
    with pytest.raises(Malformed):
        keyrings.encode_private(private_key(ACTIVE), Secret(b""))


def test_only_an_encrypted_rsa_key_is_loaded() -> None:
    passphrase = Secret(secrets.token_urlsafe(16))
    plain = private_key(ACTIVE).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    curve = ec.generate_private_key(ec.SECP256R1())
    other = curve.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, keyrings.BestAvailableEncryption(passphrase.reveal())
    )
    for pem in (plain, other, b"", b"no pem"):
        with pytest.raises(Unreadable):
            keyrings.load_private(pem, passphrase)


def test_an_unencrypted_key_is_loaded_only_where_no_passphrase_is_asked_for() -> None:
    plain = keyrings.encode_private(private_key(ACTIVE), None)
    assert public_of(keyrings.load_private(plain, None)) == vault().active
    encrypted = keyrings.encode_private(private_key(ACTIVE), Secret(secrets.token_urlsafe(16)))
    with pytest.raises(Unreadable, match="unencrypted"):
        keyrings.load_private(encrypted, None)


def test_new_vault_keys_have_3072_bits() -> None:
    key = keyrings.generate_private()
    assert (key.key_size, key.public_key().public_numbers().e) == (3072, 65537)


def test_a_keyring_holds_keys_under_their_own_names_only() -> None:
    active = vault().active.thumbprint
    with pytest.raises(Malformed):
        Keyring({"x": private_key(ACTIVE)}, "x")
    with pytest.raises(Unknown):
        Keyring({active: private_key(ACTIVE)}, public_of(private_key("foreign")).thumbprint)
    assert active in vault()
    assert "foreign" not in vault()
