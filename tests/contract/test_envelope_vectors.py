"""What opens everywhere opens here, and what must open nowhere does not: `vectors/envelopes.json`.

The file holds envelopes made by three implementations and by an attacker. Python's own opening and the keyholder are
asked the same questions. The private key in the file was made for it and protects nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import count
from pathlib import Path
from secrets import token_bytes
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import RSAKey

from cli.sealing import SealedCredential, parse_sealed
from crypto import credential as payloads
from crypto import envelope
from crypto.jwe import MAX_ENVELOPE, SIZES
from crypto.keyring import Keyring, LocalKey, PrivateHalf, VaultPublicKey, fingerprint, parse_public, public_of
from crypto.opening import open_secret_store
from crypto.secret import Secret
from crypto.stores import SecretStore, credential_name
from crypto.transit import TransitKey
from domain.errors import EnvelopeRejected, Unreadable
from domain.events import (
    AnyEvent,
    CredentialReleased,
    CredentialSealed,
    ReleaseDenied,
    RunRequested,
    RunStarted,
    TenantRegistered,
)
from domain.ids import (
    ENTRA,
    Dataset,
    Slot,
    Stream,
    TenantId,
    credential_stream,
    new_run_id,
    run_stream,
    tenant_stream,
)
from domain.settings import CLOUDS, Settings
from eventstore.store import EventStore, create_event_store, open_event_store
from vault.client import open_released
from vault.custody import Custody
from vault.holding import Holding
from vault.messages import CreateVaultKey, Release
from vault.policy import digest_of

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "envelopes.json").read_text())
GOOD: list[dict[str, str]] = VECTORS["good"]
BAD: list[dict[str, str]] = VECTORS["bad"]
WHY = {
    "tenant": "another tenant",
    "slot": "another slot",
    "key": "a key this vault does not have",
    "typ": "its typ is not",
    "alg": "its alg is not",
    "enc": "its enc is not",
    "header": "has not exactly the members",
    "duplicate": "names a member twice",
    "form": "no compact JWE",
    "size": "wrong size",
    "oversize": "is longer than",
    "changed": "changed after it was sealed",
    "payload": "no credential|cannot be used",
}
"""The file's word for a reason to the words of `EnvelopeRejected`."""


@cache
def private_key() -> rsa.RSAPrivateKey:
    imported = RSAKey.import_key(VECTORS["test_private_key_that_protects_nothing"]).private_key
    assert isinstance(imported, rsa.RSAPrivateKey)
    return imported


@cache
def keyring() -> Keyring:
    return Keyring({public_of(private_key()).thumbprint: private_key()}, public_of(private_key()).thumbprint)


def named(vector: dict[str, str]) -> str:
    return "-".join(vector[part] for part in ("made_by", "enc", "name") if part in vector)


def opened_secret(vector: dict[str, str]) -> Secret:
    tenant, slot = TenantId(vector["tenant"]), vector["slot"]
    return envelope.open_(vector["envelope"], tenant=tenant, slot=slot, keyring=keyring())


def opened(vector: dict[str, str]) -> bytes:
    """The payload, once it is a credential."""
    with opened_secret(vector) as secret:
        payloads.decode(secret)
        return secret.reveal()


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


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


# the file that travels


SEALED: dict[str, Any] = VECTORS["sealed"]
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
    longest = GOOD[0] | {"envelope": GOOD[0]["envelope"].ljust(MAX_ENVELOPE + 1, "A")}
    with pytest.raises(EnvelopeRejected, match="is longer than"):
        opened(longest)


@pytest.mark.parametrize("enc", SIZES)
def test_a_byte_changed_anywhere_in_a_vector_is_noticed(enc: str) -> None:
    good = next(good for good in GOOD if good["enc"] == enc and good["made_by"] == "jwcrypto")
    segments = good["envelope"].split(".")
    for which, segment in enumerate(segments):
        raw = bytearray(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
        for at in range(len(raw)):
            raw[at] ^= 0x55
            changed = ".".join([*segments[:which], encoded(bytes(raw)), *segments[which + 1 :]])
            raw[at] ^= 0x55
            with pytest.raises(EnvelopeRejected):
                opened(good | {"envelope": changed})


@pytest.mark.parametrize("maker", ["python", "seal.js", "jwcrypto"])
def test_a_vector_cut_at_any_length_is_noticed(maker: str) -> None:
    good = next(good for good in GOOD if good["made_by"] == maker)
    for length in range(len(good["envelope"])):
        with pytest.raises(EnvelopeRejected):
            opened(good | {"envelope": good["envelope"][:length]})


# opening in the keyholder


class KnownCustody:
    """One key that is known beforehand, and no other custody."""

    name = "known"

    def create(self) -> VaultPublicKey:
        return public_of(private_key())

    def halves(self, keys: Collection[str]) -> Mapping[str, PrivateHalf]:
        return {key: LocalKey(private_key()) for key in keys}

    def destroy(self, key: str) -> None:
        """It stands in the file."""

    def current(self) -> Custody:
        return self

    def of(self, name: str) -> Custody:
        return self


PURPOSES = {ENTRA: "graph"}
TRANSIT = TransitKey.generate()


class Vault:
    """A keyholder's stores. Each envelope is stored, recorded and asked for by a run of its own."""

    def __init__(self, store: EventStore, secrets: SecretStore) -> None:
        self.store = store
        self.secrets = secrets
        self.holding = Holding(store, secrets, KnownCustody(), self.now)
        self.holding.create_vault_key(CreateVaultKey(actor="operator:test", cause="init"))
        self._runs = count(1)

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)

    def append(self, stream: Stream, *events: AnyEvent) -> None:
        self.store.append(
            stream, len(self.store.read(stream)), events, at=self.now(), actor="operator:test", cause="test"
        )

    def place(self, vector: dict[str, str]) -> Release:
        """The envelope where it is to be opened, and the request for it."""
        tenant, slot = TenantId(vector["tenant"]), Slot(vector["slot"])
        if not self.store.read(tenant_stream(tenant)):
            self.append(
                tenant_stream(tenant), TenantRegistered(tenant=tenant, name="N", domain="n.com", cloud="public")
            )
        run = new_run_id(self.now(), next(self._runs))
        datasets = (Dataset("entra.users"), Dataset("onprem.mailboxes"))
        requested = RunRequested(run=run, tenant=tenant, datasets=datasets)
        self.append(run_stream(run), requested, RunStarted(activation="a1", epoch=1))
        stored = vector["envelope"].encode()
        self.secrets.put(credential_name(tenant, slot), stored)
        sealed = CredentialSealed(
            tenant=tenant,
            slot=slot,
            kind="app-secret",
            identity="any",
            vault_key=keyring().active.thumbprint,
            digest=digest_of(stored),
        )
        self.append(credential_stream(tenant, slot), sealed)
        return Release(
            run=run,
            tenant=tenant,
            slot=slot,
            activation="a1",
            epoch=1,
            purpose=PURPOSES.get(slot, "exchange-server"),
            transit_key=TRANSIT.public,
        )

    def opened(self, vector: dict[str, str]) -> payloads.Credential:
        """As the tenant actor gets it."""
        request = self.place(vector)
        sealed = self.holding.release(request).payload
        where = {"tenant": TenantId(request.tenant), "slot": Slot(request.slot)}
        return open_released(sealed, TRANSIT, run=request.run, activation="a1", epoch=1, **where)

    def last(self, vector: dict[str, str]) -> list[AnyEvent]:
        stream = credential_stream(TenantId(vector["tenant"]), Slot(vector["slot"]))
        return [recorded.event for recorded in self.store.read(stream)][-2:]


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    state = tmp_path_factory.mktemp("vectors")
    settings = Settings(
        state=str(state),
        eventstore=f"sqlite://{state}/events.db",
        secrets=f"file://{state}/secrets",
        batches=f"file://{state}/batches",
        clouds=CLOUDS,
    )
    create_event_store(settings.eventstore)
    store = open_event_store(settings.eventstore, token_bytes(32))
    yield Vault(store, open_secret_store(settings))
    store.close()


@pytest.mark.parametrize("good", GOOD, ids=named)
def test_the_keyholder_releases_an_envelope_of_any_maker(vault: Vault, good: dict[str, str]) -> None:
    assert vault.opened(good) == payloads.decode(opened_secret(good))
    assert isinstance(vault.last(good)[-1], CredentialReleased)


@pytest.mark.parametrize("bad", [bad for bad in BAD if bad["envelope"]], ids=named)
def test_the_keyholder_releases_nothing_that_opens_nowhere(vault: Vault, bad: dict[str, str]) -> None:
    with pytest.raises(EnvelopeRejected):
        vault.opened(bad)
    released, denied = vault.last(bad)
    if bad["why"] != "payload":
        assert isinstance(released, CredentialReleased)
        assert isinstance(denied, ReleaseDenied)
        assert denied.why == "envelope-rejected"
