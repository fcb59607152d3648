"""Access tokens: real RS256 JWTs from one key per simulator, verified by every simulated service.

Claim names follow Entra's access tokens of version 1.0, the version Graph and Exchange are given:
learn.microsoft.com/entra/identity-platform/access-token-claims-reference.
"""

from __future__ import annotations

import json
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

CACHED_TOKENS = 10_000


@dataclass(frozen=True)
class Claims:
    """What a verified token says. `subject` is the object id of the service principal or user;
    `roles` are an application's permissions or a user's delegated ones."""

    tenant_id: str
    app_id: str
    resource: str
    subject: str
    roles: tuple[str, ...]
    expires: datetime


class TokenRejected(Exception):
    """The request carries no acceptable token. args: the reason, a sentence in Microsoft's words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Issuer:
    """Issues and verifies the tokens of one simulator at `origin`. A token for the origin itself is good everywhere."""

    def __init__(self, origin: str, now: Callable[[], datetime]) -> None:
        self.origin = origin.rstrip("/")
        self.now = now
        self.key = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, private=True, auto_kid=True)
        self._verified: OrderedDict[str, Claims] = OrderedDict()

    def public_keys(self) -> dict[str, Any]:
        """The JWKS document."""
        return {"keys": [self.key.as_dict(private=False)]}

    def issue(  # noqa: PLR0917 - the claims in the order of `Claims`
        self,
        tenant_id: str,
        app_id: str,
        resource: str,
        subject: str,
        roles: tuple[str, ...] = (),
        lifetime: timedelta = timedelta(seconds=3599),
        *,
        extra: dict[str, Any] | None = None,
    ) -> str:
        """A signed token. `roles` is left out when empty, as Entra does for an application without permissions."""
        issued = int(self.now().timestamp())
        claims = {
            "aud": resource.rstrip("/"),
            "iss": f"https://sts.windows.net/{tenant_id}/",
            "iat": issued,
            "nbf": issued,
            "exp": issued + int(lifetime.total_seconds()),
            "appid": app_id,
            "oid": subject,
            "sub": subject,
            "tid": tenant_id,
            "uti": uuid.uuid4().hex[:22],
            "ver": "1.0",
            **({"roles": list(roles)} if roles else {}),
            **(extra or {}),
        }
        return jwt.encode({"alg": "RS256", "typ": "JWT", "kid": self.key.kid}, claims, self.key)

    def verify(self, authorization: str | None, resource: str) -> Claims:
        """The claims of an `Authorization: Bearer` header meant for `resource`; raises `TokenRejected`."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenRejected("Access token is empty.")
        claims = self._claims(token.strip())
        if claims.resource not in (resource.rstrip("/"), self.origin):
            raise TokenRejected("Access token validation failure. Invalid audience.")
        if claims.expires <= self.now():
            raise TokenRejected("Lifetime validation failed, the token is expired.")
        return claims

    def _claims(self, token: str) -> Claims:
        if known := self._verified.get(token):
            return known
        try:
            decoded = jwt.decode(token, self.key, algorithms=["RS256"]).claims
        except (JoseError, ValueError, json.JSONDecodeError) as error:
            raise TokenRejected("IDX14100: JWT is not well formed or its signature is invalid.") from error
        claims = Claims(
            tenant_id=decoded["tid"],
            app_id=decoded["appid"],
            resource=decoded["aud"],
            subject=decoded["sub"],
            roles=tuple(decoded.get("roles") or decoded.get("scp", "").split()),
            expires=datetime.fromtimestamp(decoded["exp"], UTC),
        )
        self._verified[token] = claims
        if len(self._verified) > CACHED_TOKENS:
            self._verified.popitem(last=False)
        return claims
