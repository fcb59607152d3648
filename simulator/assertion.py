"""A client assertion: the signed JWT by which an application proves that it holds a registered certificate's key.

learn.microsoft.com/entra/identity-platform/certificate-credentials. Client libraries differ: MSAL signs with PS256 and
`x5t#S256`, or with RS256 and an `x5t` whose padding it keeps; it leaves `nbf` out, writes times as floats and sends
one assertion several times. All of that is accepted, as the service does.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from simulator.aadsts import SignInRefused
from simulator.world import App

PADDINGS: dict[str, padding.AsymmetricPadding] = {
    "PS256": padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH),
    "RS256": padding.PKCS1v15(),
}
THUMBPRINTS: dict[str, type[hashes.HashAlgorithm]] = {"x5t#S256": hashes.SHA256, "x5t": hashes.SHA1}
SKEW_SECONDS = 300.0
TOKEN_PATHS = ("/{}/oauth2/v2.0/token", "/{}/oauth2/token", "/{}/v2.0", "/{}", "/{}/")
LONGEST = 32 * 1024


def check_assertion(assertion: str, app: App, tenant_names: tuple[str, ...], now: datetime) -> None:
    """Raises `SignInRefused` unless `assertion` was signed with the key of one of the app's certificates, for this
    tenant's token endpoint (whatever the host), by this app, and is valid now."""
    header, claims = _decoded(assertion, app)
    if header.get("alg") not in PADDINGS:
        raise _bad_signature("Invalid JWT token. Unsupported asymmetric signing algorithm.")
    certificate = _certificate(header, app)
    _check_signature(assertion, header["alg"], certificate, app)
    if certificate.not_valid_after_utc <= now:
        raise _bad_signature(
            "Client assertion contains an invalid signature. [Reason - The key used is expired., "
            f"Thumbprint of key used by client: '{certificate.fingerprint(hashes.SHA1()).hex().upper()}']"  # noqa: S303
        )
    if not claims.get("iss") == claims.get("sub") == app.client_id:
        raise SignInRefused(700021, {})
    paths = {path.format(name.lower()) for path in TOKEN_PATHS for name in tenant_names}
    audience = str(claims.get("aud", "")).lower()
    if not audience.startswith("https://") or "/" + audience.split("/", 3)[-1] not in paths:
        raise SignInRefused(700023, {})
    _check_times(claims, now)


def _decoded(assertion: str, app: App) -> tuple[dict[str, Any], dict[str, Any]]:
    parts = assertion.split(".")
    if len(assertion) > LONGEST or len(parts) != 3:
        raise SignInRefused(50027, {"client": app.client_id})
    try:
        header, claims = (json.loads(_bytes(part)) for part in parts[:2])
    except ValueError as error:
        raise SignInRefused(50027, {"client": app.client_id}) from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise SignInRefused(50027, {"client": app.client_id})
    return header, claims


def _certificate(header: dict[str, Any], app: App) -> x509.Certificate:
    named = next((name for name in THUMBPRINTS if header.get(name)), None)
    if named is None:
        raise _bad_signature("Client assertion contains no key identifier: the header has neither x5t nor x5t#S256.")
    wanted = str(header[named]).rstrip("=")
    for certificate in app.certificates:
        digest = certificate.fingerprint(THUMBPRINTS[named]())
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == wanted:
            return certificate
    raise _bad_signature(
        "Client assertion contains an invalid signature. [Reason - The key was not found., Please visit the Azure "
        "Portal, Graph Explorer or directly use MS Graph to see configured keys for app Id "
        f"'{app.client_id}'. Review the documentation at https://docs.microsoft.com/en-us/graph/deployments to "
        "determine the corresponding service endpoint.]"
    )


def _check_signature(assertion: str, algorithm: str, certificate: x509.Certificate, app: App) -> None:
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey):
        raise _bad_signature("Invalid JWT token. Unsupported asymmetric signing algorithm.")
    signed, _, signature = assertion.rpartition(".")
    try:
        key.verify(_bytes(signature), signed.encode("ascii"), PADDINGS[algorithm], hashes.SHA256())
    except (InvalidSignature, ValueError) as error:
        raise _bad_signature(
            "Client assertion contains an invalid signature. [Reason - The provided signature value did not match the "
            f"expected signature value., app Id '{app.client_id}']"
        ) from error


def _check_times(claims: dict[str, Any], now: datetime) -> None:
    moment = now.timestamp()
    starts, ends = _number(claims.get("nbf", 0)), _number(claims.get("exp"))
    if starts is None or ends is None or moment < starts - SKEW_SECONDS or moment > ends + SKEW_SECONDS:
        texts = {"now": f"{now:%Y-%m-%dT%H:%M:%S.0000000Z}", "value": f"{_shown(starts)}, expiry time {_shown(ends)}"}
        raise SignInRefused(700024, texts)


def _number(value: Any) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and 0 <= value < 1e11 else None


def _shown(moment: float | None) -> str:
    return "none" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S.0000000Z}"


def _bytes(encoded: str) -> bytes:
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def _bad_signature(text: str) -> SignInRefused:
    return SignInRefused(700027, {"value": text})
