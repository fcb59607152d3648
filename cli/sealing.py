"""Credentials on their way in: read from the operator, sealed, stored and recorded."""

from __future__ import annotations

import getpass
import hashlib
import sys
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from cli.files import MAX_TEXT, read_text
from cli.state import State
from crypto import credential as payloads
from crypto import envelope
from crypto.keyring import VaultPublicKey
from crypto.stores import credential_name
from domain import credential as credentials
from domain import tenant as tenants
from domain.credential import Credential
from domain.errors import Malformed, NotAllowed, SecretMissing, TenantryError, TransientError, Unreadable
from domain.events import CredentialEvent, CredentialKind, CredentialSealed
from domain.ids import Slot, TenantId, credential_stream
from eventstore.streams import Held

KINDS = ("app-certificate", "app-secret", "service-account")
MAX_IDENTITY = 256


class NotRecorded(TransientError):
    """(why, what stands now)"""

    sentence = "The credential could not be recorded, so it does not count: {0} {1}"


class SealedCredential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `seal` writes and `put` reads: the envelope, and what may be known of it. No secret."""

    tenant: TenantId
    slot: Slot
    kind: CredentialKind
    identity: str
    expires: datetime | None
    envelope: str


def read_credential(kind: str, client_id: str, username: str, certificate: Path | None) -> payloads.Credential:
    """Asks for what is missing; raises `Malformed` for what cannot be."""
    match kind:
        case "app-certificate":
            if not client_id:
                raise Malformed("client id", client_id, "--client-id with the application's GUID")
            return certificate_payload(
                client_id, read_text(certificate, "certificate") if certificate else _piped_pem()
            )
        case "app-secret":
            if not client_id:
                raise Malformed("client id", client_id, "--client-id with the application's GUID")
            return payloads.AppSecret(client_id=client_id, secret=_secret("Client secret"))
        case "service-account":
            if not username:
                raise Malformed("user name", username, "--username such as reader@contoso.com")
            password = _secret(f"Password of {username}")
            client = {"client_id": client_id} if client_id else {}
            return payloads.ServiceAccount(username=username, password=password, **client)
        case _:
            raise Malformed("kind of credential", kind, ", ".join(KINDS))


def certificate_payload(client_id: str, pem: str) -> payloads.AppCertificate:
    """Splits a PEM text into its first certificate and its private key."""
    blocks: dict[Literal["certificate", "key"], str] = {}
    for part in pem.split("-----BEGIN ")[1:]:
        label = part.partition("-----")[0]
        which: Literal["certificate", "key"] = "certificate" if label == "CERTIFICATE" else "key"
        if label == "CERTIFICATE" or label.endswith("PRIVATE KEY"):
            blocks.setdefault(which, f"-----BEGIN {part.rstrip()}\n")
    if blocks.keys() != {"certificate", "key"}:
        raise Malformed("certificate", "that text", "PEM with a CERTIFICATE and an unencrypted PRIVATE KEY block")
    return payloads.AppCertificate(
        client_id=client_id, certificate_pem=blocks["certificate"], private_key_pem=blocks["key"]
    )


def make(tenant: TenantId, which: Slot, key: VaultPublicKey, payload: payloads.Credential) -> SealedCredential:
    with payloads.encode(payload) as secret:
        sealed = envelope.seal(secret, tenant=tenant, slot=which, key=key)
    return SealedCredential(
        tenant=tenant,
        slot=which,
        kind=payloads.kind_of(payload),
        identity=payloads.identity_of(payload),
        expires=payloads.expires_of(payload),
        envelope=sealed,
    )


def parse_sealed(text: str, path: Path) -> SealedCredential:
    """What `seal` wrote. Raises `Unreadable`, and `Malformed` for an identity that could not be shown."""
    try:
        sealed = msgspec.json.decode(text, type=SealedCredential)
    except msgspec.DecodeError as error:
        remedy = "Make it with `tenantry credential seal`."
        raise Unreadable("sealed credential", str(path), str(error), remedy) from error
    if not 0 < len(sealed.identity) <= MAX_IDENTITY or not sealed.identity.isprintable():
        raise Malformed("identity", sealed.identity[:40], f"1 to {MAX_IDENTITY} printable characters")
    return sealed


def store_sealed(state: State, sealed: SealedCredential) -> Credential:
    """Stores the envelope and records it. When it cannot be recorded, the former envelope is put back: `NotRecorded`.

    Raises `EnvelopeRejected`, `Malformed` or `NotAllowed` for an envelope that the vault would not open.
    """
    header = envelope.read_header(sealed.envelope)
    active = state.public_key().thumbprint
    if (header.tenant, header.slot) != (sealed.tenant, sealed.slot):
        raise Malformed("sealed credential", f"{sealed.tenant}/{sealed.slot}", "the tenant and slot of its envelope")
    if header.kid != active:
        raise NotAllowed(
            "store the credential",
            f"it is sealed to key {header.kid}, the vault's key is {active}",
            "Get that with `tenantry vault public-key` and seal it again.",
        )
    known = state.tenant(sealed.tenant)
    tenants.in_service(known, "store the credential")
    held = held_credential(state, sealed.tenant, sealed.slot)
    name = credential_name(sealed.tenant, sealed.slot)
    former = read_back(state, name) if held.state else b""
    event = CredentialSealed(
        tenant=sealed.tenant,
        slot=sealed.slot,
        kind=sealed.kind,
        identity=sealed.identity,
        vault_key=header.kid,
        digest=hashlib.sha256(sealed.envelope.encode()).hexdigest(),
        expires=sealed.expires,
    )
    state.secrets.put(name, sealed.envelope.encode())
    try:
        state.decide(held, lambda found: credentials.seal(found, event), "credential set")
    except TenantryError as error:
        raise NotRecorded(str(error), _put_back(state, name, former)) from error
    if held.state is None:
        raise AssertionError("a sealed credential has a state")
    return held.state


def held_credential(state: State, tenant: TenantId, which: Slot) -> Held[Credential | None, CredentialEvent]:
    return state.held(credential_stream(tenant, which), credentials.evolve, None)


def read_back(state: State, name: str) -> bytes | None:
    """The envelope that is stored now: empty when there is none, None when this identity may only write."""
    try:
        return state.secrets.get(name)
    except SecretMissing:
        return b""
    except NotAllowed:
        return None


def _put_back(state: State, name: str, former: bytes | None) -> str:
    """Undoes a `put`, and says what stands then."""
    if former is None:
        return "Until it is recorded, the tenant's runs are refused: do this again when the event store is back."
    if not former:
        state.secrets.delete(name)
        return "Nothing was stored; do this again when the event store is back."
    state.secrets.put(name, former)
    return "The former one stays in use; do this again when the event store is back."


def _secret(prompt: str) -> str:
    """From a prompt without echo, or standard input up to its end when that is no terminal."""
    text = getpass.getpass(f"{prompt}: ") if sys.stdin.isatty() else _piped(prompt).rstrip("\r\n")
    if not text:
        raise Malformed(prompt.lower(), "nothing", "it on standard input or at the prompt")
    return text


def _piped_pem() -> str:
    if sys.stdin.isatty():
        raise Malformed("certificate", "nothing", "--certificate FILE, or PEM on standard input")
    return _piped("certificate")


def _piped(what: str) -> str:
    content = sys.stdin.buffer.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise Malformed(what.lower(), "...", f"at most {MAX_TEXT // 1024} KiB on standard input")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Malformed(what.lower(), "...", "UTF-8 text on standard input") from None
