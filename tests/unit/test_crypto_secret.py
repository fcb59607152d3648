"""A secret shows itself only when asked, and a credential only inside one."""

from __future__ import annotations

import copy
import json
import pickle
import secrets
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from rich.pretty import pretty_repr

from crypto import credential as credentials
from crypto.checkpoint import LedgerKey
from crypto.credential import AppCertificate, AppSecret, Payload, ServiceAccount
from crypto.datakey import new_data_key
from crypto.secret import Secret
from crypto.transit import TransitKey
from domain.errors import EnvelopeRejected, Malformed, NotAllowed

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(days: int = 90, make: Callable[[], PrivateKey] = rsa_key) -> tuple[str, str, datetime]:
    """A self-signed certificate, its key and its end."""
    key = make()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "collector")])
    start = datetime.now(UTC).replace(microsecond=0)
    end = start + timedelta(days=days)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, end).sign(
        key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(pem).decode(), private.decode(), end


def each_kind() -> list[Payload]:
    public, private, _ = certificate()
    return [
        AppCertificate(client_id=str(uuid4()), certificate_pem=public, private_key_pem=private),
        AppSecret(client_id=str(uuid4()), secret=secrets.token_urlsafe(30)),
        ServiceAccount(username="reports@contoso.example", password=secrets.token_urlsafe(20)),
    ]


def hidden(credential: Payload) -> str:
    match credential:
        case AppCertificate():
            return credential.private_key_pem
        case AppSecret():
            return credential.secret
        case ServiceAccount():
            return credential.password


def test_a_secret_gives_back_what_was_put_in() -> None:
    value = secrets.token_bytes(40)
    assert Secret(value).reveal() == value
    assert Secret("pässword").text() == "pässword"


def test_nothing_prints_a_secret() -> None:
    value = secrets.token_urlsafe(20)
    secret = Secret(value)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", pretty_repr(secret), f"{[secret]} {(secret,)!r}"]
    assert not any(value in text for text in shown)


@pytest.mark.parametrize("encode", [json.dumps, msgspec.json.encode, msgspec.msgpack.encode, hash, vars, bytes, iter])
def test_a_secret_is_not_encoded_hashed_or_listed(encode: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError):
        encode(Secret(b"x"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "make", [lambda: Secret(b"x"), new_data_key, TransitKey.generate, LedgerKey.generate, lambda: each_kind()[1]]
)
def test_pickling_what_holds_a_secret_raises(make: Callable[[], object], protocol: int) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(make(), protocol)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copying_a_secret_raises(duplicate: Callable[[Secret], Secret]) -> None:
    with pytest.raises(TypeError):
        duplicate(Secret(b"x"))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("credential", each_kind(), ids=credentials.kind_of)
def test_copying_a_credential_raises(credential: Payload, duplicate: Callable[[Payload], Payload]) -> None:
    with pytest.raises(TypeError, match="nor copied"):
        duplicate(credential)


def test_text_of_another_encoding_is_no_secret_and_not_quoted() -> None:
    with pytest.raises(Malformed) as refusal:
        Secret("cafeteria" + b"\xe9".decode(errors="surrogateescape"))
    assert "cafeteria" not in f"{refusal.value} {refusal.value.args}"


def test_secrets_compare_by_value_with_each_other_only() -> None:
    assert Secret("same") == Secret(b"same")
    assert Secret("same") != Secret("other")
    assert Secret("same") != "same"


def test_a_closed_secret_shows_nothing() -> None:
    with Secret("gone") as secret:
        assert secret.text() == "gone"
    for use in (secret.reveal, secret.text, lambda: secret == Secret("gone")):
        with pytest.raises(NotAllowed):
            use()
    secret.close()
    assert repr(secret) == "Secret(...)"


def test_bytes_that_are_no_text_are_not_shown_as_text() -> None:
    with pytest.raises(NotAllowed) as refusal:
        Secret(b"\xff\xfe").text()
    assert "xff" not in str(refusal.value)


@pytest.mark.parametrize("credential", each_kind(), ids=credentials.kind_of)
def test_a_credential_survives_its_secret_and_shows_nothing(credential: Payload) -> None:
    restored = credentials.decode(credentials.encode(credential))
    assert restored == credential
    assert hidden(restored) == hidden(credential)
    assert hidden(credential) not in f"{credential!r} {credential} {pretty_repr(credential)}"
    assert credentials.kind_of(restored) == credentials.kind_of(credential)
    assert credentials.identity_of(restored) == credentials.identity_of(credential)


def test_only_a_certificate_says_when_it_expires() -> None:
    public, private, end = certificate()
    with_end = AppCertificate(client_id=str(uuid4()), certificate_pem=public, private_key_pem=private)
    assert credentials.expires_of(with_end) == end
    assert credentials.expires_of(each_kind()[1]) is None


def test_a_service_account_signs_in_through_azure_powershell_unless_told_otherwise() -> None:
    sealed = Secret(b'{"kind":"service-account","username":"a@b.example","password":"p"}')
    restored = credentials.decode(sealed)
    assert isinstance(restored, ServiceAccount)
    assert restored.client_id == "1950a258-227b-4e31-a9cf-717495945fc2"


def unusable() -> list[Payload]:
    public, private, _ = certificate()
    _, other_private, _ = certificate()
    client = str(uuid4())
    return [
        AppSecret(client_id="not-a-guid-" + secrets.token_hex(4), secret=secrets.token_hex(8)),
        AppSecret(client_id=f"{{{client}}}", secret=secrets.token_hex(8)),
        AppSecret(client_id=client.replace("-", ""), secret=secrets.token_hex(8)),
        AppSecret(client_id=client, secret=""),
        AppSecret(client_id=client, secret="two\nlines"),
        AppCertificate(client_id=client, certificate_pem=certificate_of_no_known_key(), private_key_pem=private),
        ServiceAccount(username="", password=secrets.token_hex(8)),
        ServiceAccount(username="u@contoso.example", password="p" * 2000),
        AppCertificate(client_id=client, certificate_pem=public, private_key_pem=other_private),
        AppCertificate(client_id=client, certificate_pem=public, private_key_pem="no key"),
        AppCertificate(client_id=client, certificate_pem="no certificate", private_key_pem=private),
    ]


def certificate_of_no_known_key() -> str:
    """A certificate whose key has an algorithm that nobody has heard of."""
    public, _, _ = certificate()
    known, unknown = bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a864886f70d01017f")
    der = x509.load_pem_x509_certificate(public.encode()).public_bytes(serialization.Encoding.DER)
    assert known in der
    return (
        f"-----BEGIN CERTIFICATE-----\n{b64encode(der.replace(known, unknown)).decode()}\n-----END CERTIFICATE-----\n"
    )


def test_a_credential_of_another_encoding_is_not_sealed() -> None:
    foreign = b"\xe9".decode(errors="surrogateescape")
    with pytest.raises(Malformed, match="client secret"):
        credentials.encode(AppSecret(client_id=str(uuid4()), secret=foreign))
    with pytest.raises(Malformed, match="user name"):
        credentials.encode(ServiceAccount(username=foreign, password=secrets.token_hex(8)))


@pytest.mark.parametrize("credential", unusable())
def test_what_cannot_sign_in_is_neither_sealed_nor_read(credential: Payload) -> None:
    with pytest.raises(Malformed):
        credentials.encode(credential)
    with pytest.raises(EnvelopeRejected) as refusal:
        credentials.decode(Secret(msgspec.json.encode(credential)))
    assert not hidden(credential) or hidden(credential) not in str(refusal.value)


def curve_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP521R1())


@pytest.mark.parametrize("make", [curve_key, ed25519.Ed25519PrivateKey.generate])
def test_a_certificate_without_an_rsa_key_is_not_sealed_and_still_read(make: Callable[[], PrivateKey]) -> None:
    public, private, _ = certificate(make=make)
    credential = AppCertificate(client_id=str(uuid4()), certificate_pem=public, private_key_pem=private)
    with pytest.raises(Malformed, match="an RSA key"):
        credentials.encode(credential)
    assert credentials.decode(Secret(msgspec.json.encode(credential))) == credential


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b'{"kind":"other"}',
        b'{"kind":"app-secret","client_id":"x"}',
        b"\xff",
        b"[" * 5000,
        b'{"x":' + b"[" * 5000,
    ],
)
def test_a_payload_that_is_no_credential_is_rejected_without_quoting_it(payload: bytes) -> None:
    with pytest.raises(EnvelopeRejected) as refusal:
        credentials.decode(Secret(payload))
    assert "other" not in str(refusal.value)
