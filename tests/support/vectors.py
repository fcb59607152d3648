"""The vector file, `tests/contract/vectors/envelopes.json`, and the vault whose private key stands in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import RSAKey
from joserfc.util import urlsafe_b64encode

from crypto import envelope
from crypto.keyring import Keyring, public_of
from crypto.secret import Secret
from domain.ids import TenantId

FILE = Path(__file__).parents[1] / "contract" / "vectors" / "envelopes.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text())
GOOD: list[dict[str, str]] = VECTORS["good"]
BAD: list[dict[str, str]] = VECTORS["bad"]
SEALED: dict[str, Any] = VECTORS["sealed"]
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


def named(vector: dict[str, Any]) -> str:
    return "-".join(vector[part] for part in ("made_by", "enc", "name") if part in vector)


def opened_secret(vector: dict[str, str]) -> Secret:
    tenant, slot = TenantId(vector["tenant"]), vector["slot"]
    return envelope.open_(vector["envelope"], tenant=tenant, slot=slot, keyring=keyring())


def of_jwcrypto(enc: str) -> dict[str, str]:
    """The good vector that is spoilt in every place."""
    return next(good for good in GOOD if good["enc"] == enc and good["made_by"] == "jwcrypto")


def changed_anywhere(vector: dict[str, str]) -> Iterator[dict[str, str]]:
    """It, with one byte of one segment changed: for every byte."""
    segments = vector["envelope"].split(".")
    for which, segment in enumerate(segments):
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        for at, byte in enumerate(raw):
            changed = urlsafe_b64encode(raw[:at] + bytes([byte ^ 0x55]) + raw[at + 1 :]).decode()
            yield vector | {"envelope": ".".join([*segments[:which], changed, *segments[which + 1 :]])}


def oversize() -> dict[str, str]:
    """Longer than any envelope that is looked at."""
    return GOOD[0] | {"name": "over 64 KiB", "why": "oversize", "envelope": GOOD[0]["envelope"].ljust(65_537, "A")}
