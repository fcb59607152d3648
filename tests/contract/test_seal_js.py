"""What the browser's module seals, Python opens; what Python would refuse to seal, the module refuses too."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.util import int_to_base64
from sealing import (
    CLIENT,
    CLIENTS,
    TENANT,
    app_certificate,
    app_secret,
    as_python_reads,
    certificate,
    encrypted_pem,
    in_python,
    jwks,
    opened,
    pem,
    private_pem,
    request,
    service_account,
    vault,
)

from cli.sealing import SealedCredential, parse_sealed
from crypto import credential as payloads
from crypto import envelope
from crypto.keyring import fingerprint, parse_public, public_jwks, public_of
from crypto.secret import Secret
from domain.errors import EnvelopeRejected, Malformed
from domain.ids import ENTRA, EXCHANGE_SERVER, SLOTS, TenantId, moment

DRIVER = Path(__file__).parent / "vectors" / "seal_driver.mjs"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed: seal.js is not run")

Ask = Callable[[str, Any], dict[str, Any]]
"""(call, argument) -> {"value": ...} or {"refused": {"name", "what", "message"}}"""


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Node with the module loaded, one request after the other."""
    assert NODE is not None
    command = [NODE, str(DRIVER), (CLIENTS / "seal.js").as_uri()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:  # noqa: S603
        assert node.stdin is not None
        assert node.stdout is not None
        stdin, stdout = node.stdin, node.stdout

        def answer(call: str, argument: Any) -> dict[str, Any]:
            stdin.write(json.dumps({"call": call, "argument": argument}) + "\n")
            stdin.flush()
            answered: dict[str, Any] = json.loads(stdout.readline())
            return answered

        yield answer
        stdin.close()
    assert node.returncode == 0


def sealed_by(ask: Ask, credential: object, **changed: object) -> SealedCredential:
    """What the module answers, read as `credential put` reads it."""
    answered = ask("seal", request(credential, **changed))
    assert "refused" not in answered, answered
    return parse_sealed(json.dumps(answered["value"]), Path("sealed.json"))


def refused_by(ask: Ask, credential: object, **changed: object) -> str:
    """The field that is named."""
    answered = ask("seal", request(credential, **changed))
    assert answered["refused"]["name"] == "Malformed", answered
    what: str = answered["refused"]["what"]
    return what


@needs_node
@pytest.mark.parametrize("slot", SLOTS)
def test_what_the_module_seals_opens_as_what_was_given(ask: Ask, slot: str) -> None:
    for given_ in (app_secret(), service_account(), service_account(client_id=str(uuid4()))):
        sealed = sealed_by(ask, given_, slot=slot)
        assert (sealed.tenant, sealed.slot, sealed.kind) == (TENANT, slot, given_["kind"])
        assert sealed.expires is None
        credential = opened(sealed)
        assert credential == in_python(given_)
        assert sealed.identity == payloads.identity_of(credential)


@needs_node
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_certificate_is_sealed_with_its_own_expiry(ask: Ask, form: PrivateFormat) -> None:
    for days in (365, 365 * 40):
        sealed = sealed_by(ask, app_certificate("rsa", form, certificate_pem=certificate("rsa", days)))
        credential = opened(sealed)
        assert isinstance(credential, payloads.AppCertificate)
        assert credential.private_key_pem == private_pem("rsa", form)
        assert sealed.expires == payloads.expires_of(credential)


@needs_node
def test_the_header_is_the_one_that_python_writes(ask: Ask) -> None:
    ours = envelope.seal(Secret("x"), tenant=TENANT, slot=ENTRA, key=vault().active)
    assert sealed_by(ask, app_secret()).envelope.split(".")[0] == ours.split(".", maxsplit=1)[0]


@needs_node
def test_no_two_envelopes_of_one_credential_are_alike(ask: Ask) -> None:
    credential = app_secret()
    one, other = (sealed_by(ask, credential).envelope.split(".") for _ in range(2))
    assert not set(one[1:]) & set(other[1:])


@needs_node
def test_a_tenant_is_written_in_lower_case_and_opens_nowhere_else(ask: Ask) -> None:
    sealed = sealed_by(ask, app_secret(), tenant=TENANT.upper())
    assert sealed.tenant == TENANT
    for tenant, slot in ((TenantId(str(uuid4())), ENTRA), (TENANT, EXCHANGE_SERVER)):
        with pytest.raises(EnvelopeRejected):
            envelope.open_(sealed.envelope, tenant=tenant, slot=slot, keyring=vault())


@needs_node
@pytest.mark.parametrize("expires", ["2027-03-01T00:00:00Z", "2027-03-01T01:30:00.250+01:30"])
def test_a_secret_may_say_when_it_expires(ask: Ask, expires: str) -> None:
    assert sealed_by(ask, app_secret(), expires=expires).expires == datetime.fromisoformat(expires)


@needs_node
@pytest.mark.parametrize(
    "expires",
    [
        *("soon", "2027-13-01T00:00:00Z", 1, {}),
        *("2027-02-30T00:00:00Z", "2027-06-31T12:00:00+02:00", "0000-01-01T00:00:00Z"),
    ],
)
def test_an_expiry_that_is_no_moment_is_refused(ask: Ask, expires: object) -> None:
    assert refused_by(ask, app_secret(), expires=expires) == "expiry"
    assert refused_by(ask, app_certificate(), expires="2027-03-01T00:00:00Z") == "expiry"


# the vault's key


@needs_node
def test_the_fingerprint_is_the_one_that_the_vault_prints(ask: Ask) -> None:
    words = fingerprint(vault().active)
    for form in (jwks(), json.loads(jwks()), json.loads(jwks())["keys"][0]):
        assert ask("fingerprint", form) == {"value": words}
    assert opened(sealed_by(ask, app_secret(), fingerprint=f" {words.upper()} "))
    assert refused_by(ask, app_secret(), fingerprint=words[:-1] + "q") == "vault public key"
    assert refused_by(ask, app_secret(), fingerprint="") == "vault public key"


def changed_key(**changes: object) -> str:
    members = json.loads(jwks())["keys"][0] | changes
    return json.dumps({name: value for name, value in members.items() if value is not ...})


def weak_key() -> str:
    """1024 bits, the first and the last of them set."""
    return changed_key(n=int_to_base64(secrets.randbits(1024) | 1 << 1023 | 1), kid=...)


def other_exponent() -> str:
    return public_jwks([public_of(rsa.generate_private_key(public_exponent=3, key_size=2048))])


UNUSABLE_KEYS: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no JSON": lambda: "no json",
    "a list": lambda: "[]",
    "null": lambda: "null",
    "no key": lambda: '{"keys": []}',
    "keys that are numbers": lambda: '{"keys": [1]}',
    "keys that are no list": lambda: '{"keys": {}}',
    "too long": lambda: " " * 70_000,
    "another kind": lambda: changed_key(kty="EC"),
    "a signing key": lambda: changed_key(use="sig"),
    "another algorithm": lambda: changed_key(alg="RSA-OAEP"),
    "another name": lambda: changed_key(kid="x" * 43),
    "no modulus": lambda: changed_key(n=...),
    "a modulus that is null": lambda: changed_key(n=None),
    "a modulus that is no base64url": lambda: changed_key(n="!!", kid=...),
    "a short modulus": lambda: changed_key(n="AQAB", kid=...),
    "a 1024-bit key": weak_key,
    "an exponent of 3": other_exponent,
    "a private key": lambda: changed_key(d="AQAB"),
}


@needs_node
@pytest.mark.parametrize("which", UNUSABLE_KEYS)
def test_what_python_does_not_seal_to_the_module_does_not_either(ask: Ask, which: str) -> None:
    text = UNUSABLE_KEYS[which]()
    with pytest.raises(Malformed):
        parse_public(text)
    assert refused_by(ask, app_secret(), jwks=text) == "vault public key"


@needs_node
def test_names_may_be_left_out_of_a_key(ask: Ask) -> None:
    text = changed_key(kid=..., use=..., alg=...)
    assert parse_public(text) == vault().active
    assert opened(sealed_by(ask, app_secret(), jwks=text))


# what is sealed


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (lambda: None, "kind of credential"),
    "another kind": (lambda: app_secret(kind="password"), "kind of credential"),
    "a kind that is a list": (lambda: app_secret(kind=["app-secret"]), "kind of credential"),
    "a member of every object": (lambda: app_secret(kind="constructor"), "kind of credential"),
    "a surplus field": (lambda: app_secret(password="x"), "credential"),
    "a client id that is no GUID": (lambda: app_secret(client_id="contoso"), "client id"),
    "a client id in braces": (lambda: app_secret(client_id=f"{{{CLIENT}}}"), "client id"),
    "no secret": (lambda: app_secret(secret=""), "client secret"),
    "a secret that is a number": (lambda: app_secret(secret=7), "client secret"),
    "a secret of two lines": (lambda: app_secret(secret="a\nb"), "client secret"),
    "a long secret": (lambda: app_secret(secret="x" * 1025), "client secret"),
    "half of a character": (lambda: app_secret(secret="\ud800"), "client secret"),
    "no user name": (lambda: service_account(username=None), "user name"),
    "a long user name": (lambda: service_account(username="x" * 257), "user name"),
    "a password with a tab": (lambda: service_account(password="a\tb"), "password"),
    "a certificate that is none": (lambda: app_certificate(certificate_pem="x"), "certificate"),
    "a certificate of nothing": (lambda: app_certificate(certificate_pem=pem("CERTIFICATE", "MAA=")), "certificate"),
    "a certificate cut short": (
        lambda: app_certificate(certificate_pem=pem("CERTIFICATE", "MIIBAA==")),
        "certificate",
    ),
    "a long certificate": (lambda: app_certificate(certificate_pem="x" * 12289), "certificate"),
    "the key of another": (
        lambda: app_certificate(private_key_pem=private_pem("another rsa")),
        "private key",
    ),
    "a key of another kind": (lambda: app_certificate(private_key_pem=private_pem("p-256")), "private key"),
    "a certificate with a key on a curve": (lambda: app_certificate("p-256"), "certificate"),
    "a certificate with another kind of key": (lambda: app_certificate("ed25519"), "certificate"),
    "an encrypted key": (lambda: app_certificate(private_key_pem=encrypted_pem()), "private key"),
    "no key": (lambda: app_certificate(private_key_pem=certificate("rsa")), "private key"),
}


@needs_node
@pytest.mark.parametrize("which", REFUSED)
def test_what_python_would_not_seal_the_module_refuses_and_names(ask: Ask, which: str) -> None:
    make, what = REFUSED[which]
    credential = make()
    assert in_python(credential) is None
    assert refused_by(ask, credential) == what


@needs_node
@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"tenant": "contoso.com"}, "tenant id"),
        ({"tenant": None}, "tenant id"),
        ({"tenant": TENANT.replace("-", "")}, "tenant id"),
        ({"slot": "exchange"}, "credential slot"),
        ({"slot": None}, "credential slot"),
    ],
)
def test_no_tenant_and_no_slot_are_refused(ask: Ask, changed: dict[str, object], what: str) -> None:
    assert refused_by(ask, app_secret(), **changed) == what


@needs_node
def test_a_refusal_quotes_nothing_of_the_credential(ask: Ask) -> None:
    word = secrets.token_hex(16)
    for credential in (app_secret(secret=f"{word}\n"), service_account(password=word, username=f"{word}\0")):
        assert word not in json.dumps(ask("seal", request(credential)))
    private = changed_key(d=word)
    assert word not in json.dumps(ask("seal", request(app_secret(), jwks=private)))


@needs_node
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    username=st.one_of(st.text(max_size=20), st.sampled_from(["x" * 256, "😀" * 256, "😀" * 257])),
    password=st.one_of(
        st.text(st.characters(exclude_categories=[]), max_size=20),
        st.sampled_from(["é" * 1024, "😀" * 1024, "e\u0301" * 513]),
    ),
)
def test_the_module_seals_what_python_seals_and_nothing_else(ask: Ask, username: str, password: str) -> None:
    credential = service_account(username=username, password=password)
    expected = in_python(credential)
    answered = ask("seal", request(credential))
    assert ("value" in answered) == (expected is not None)
    if expected is not None:
        assert opened(msgspec.convert(answered["value"], SealedCredential)) == expected


@needs_node
def test_the_largest_payload_fits_a_key_vault_secret_and_a_larger_one_is_refused(ask: Ask) -> None:
    """What stands before a PEM block is no part of it, but it is sealed."""
    one = app_certificate()
    with payloads.encode(as_python_reads(one)) as payload:
        room = 16 * 1024 - len(payload.reveal())
    half = room // 2
    one["certificate_pem"] = "#" * half + one["certificate_pem"]
    one["private_key_pem"] = "#" * (room - half) + one["private_key_pem"]
    sealed = sealed_by(ask, one)
    assert len(sealed.envelope) < 25_000
    assert opened(sealed) == as_python_reads(one)
    one["private_key_pem"] = "#" + one["private_key_pem"]
    with payloads.encode(as_python_reads(one)) as payload, pytest.raises(Malformed, match="16385 bytes"):
        envelope.seal(payload, tenant=TENANT, slot=ENTRA, key=vault().active)
    assert refused_by(ask, one) == "payload to seal"


# the same for every client: `vectors/inputs.json`


INPUTS: dict[str, Any] = json.loads((DRIVER.parent / "inputs.json").read_text())
PUBLIC_KEYS: dict[str, Any] = INPUTS["public_keys"]
EXPIRIES: dict[str, Any] = INPUTS["expiries"]


def named(vector: dict[str, Any]) -> str:
    return str(vector["name"])


@pytest.mark.parametrize("good", PUBLIC_KEYS["good"], ids=named)
def test_a_public_key_that_every_client_takes_is_taken_here(good: dict[str, Any]) -> None:
    assert fingerprint(parse_public(json.dumps(good["jwks"]))) == good["fingerprint"]


@needs_node
@pytest.mark.parametrize("good", PUBLIC_KEYS["good"], ids=named)
def test_a_public_key_that_every_client_takes_the_module_takes(ask: Ask, good: dict[str, Any]) -> None:
    assert ask("fingerprint", good["jwks"]) == {"value": good["fingerprint"]}


@pytest.mark.parametrize("bad", PUBLIC_KEYS["bad"], ids=named)
def test_a_public_key_that_no_client_takes_is_refused_here(bad: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refusal:
        parse_public(json.dumps(bad["jwks"]))
    assert ("as disclosed" in str(refusal.value)) == (bad["why"] == "disclosed")


@needs_node
@pytest.mark.parametrize("bad", PUBLIC_KEYS["bad"], ids=named)
def test_a_public_key_that_no_client_takes_the_module_refuses(ask: Ask, bad: dict[str, Any]) -> None:
    refused = ask("fingerprint", bad["jwks"])["refused"]
    assert refused["what"] == "vault public key"
    assert ("as disclosed" in refused["message"]) == (bad["why"] == "disclosed")


def test_an_expiry_is_read_here_as_everywhere() -> None:
    for good in EXPIRIES["good"]:
        assert moment(good["text"]) == datetime.fromisoformat(good["utc"]), good
    for bad in EXPIRIES["bad"]:
        with pytest.raises(Malformed):
            moment(bad)


@needs_node
def test_an_expiry_is_read_by_the_module_as_everywhere(ask: Ask) -> None:
    for good in EXPIRIES["good"]:
        assert sealed_by(ask, app_secret(), expires=good["text"]).expires == datetime.fromisoformat(good["utc"]), good
    for bad in EXPIRIES["bad"]:
        assert refused_by(ask, app_secret(), expires=bad) == "expiry", bad
