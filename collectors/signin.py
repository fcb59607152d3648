"""Signing in to Microsoft 365 with MSAL: one credential of one tenant, and an access token for each resource.

A second attempt with a wrong password brings an account nearer to its lockout: what was refused is not tried again.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import msal
import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from msal.authority import WELL_KNOWN_AUTHORITY_HOSTS
from msal.exceptions import MsalError

from collectors.aadsts import Refusal, code_of, refusal
from collectors.throttle import retry_after
from crypto.credential import AppCertificate, AppSecret, Payload, ServiceAccount
from crypto.secret import Secret
from domain.credential import FOR_ALL
from domain.errors import (
    ConnectionLost,
    ServiceUnavailable,
    SignInFailed,
    TenantryError,
    Throttled,
    TransientError,
)
from domain.ids import TenantId
from domain.settings import Cloud

Resource = Literal["graph", "exchange"]

EARLY = timedelta(minutes=5)
"""A token is replaced so long before it expires."""
TIMEOUT_SECONDS = (10.0, 30.0)
MOST_ANSWER_BYTES = 1 << 20
LONGEST_SECONDS = 86_400
"""No access token is trusted for longer than the service's longest, a day."""
FEDERATED = Refusal(
    "policy",
    "federated",
    "The account signs in at a server of its own organisation.",
    "Use an app registration with a certificate, or an account that is managed in Entra ID.",
)
NOT_RSA = Refusal(
    "permanent-credential",
    "certificate-not-rsa",
    "Entra ID takes certificates with RSA keys only.",
    "Register an RSA certificate with the application, then seal that one.",
)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """For one resource, until `expires_at`. Shows nothing and stays in this process."""

    value: Secret
    expires_at: datetime


class Elsewhere(Exception):
    """MSAL was about to send something to a host that is not the cloud's login service."""


class LoginSession(requests.Session):
    """What MSAL sends its requests through: to the login service alone, with its authority's certificates alone.

    Proxies of the environment hold; its CA bundles and .netrc do not. MSAL leaves the port out when it asks for a
    user's realm: it is put back. Nothing is redirected, since the body holds the credential.
    `timeout`: seconds to connect, and between two parts of an answer.
    """

    def __init__(self, login: str, ca_bundle: str, timeout: tuple[float, float] = TIMEOUT_SECONDS) -> None:
        super().__init__()
        self._timeout = timeout
        self._login = urlsplit(login)
        self._verify: str | bool = ca_bundle or True
        self.auth = _no_authentication
        self.last: requests.Response | None = None

    def request(  # type: ignore[override]
        self, method: str, url: str, **options: Any
    ) -> requests.Response:
        options.update(timeout=self._timeout, allow_redirects=False, stream=True)
        response = super().request(method, self._own(url), **options)
        body = bytearray()
        for part in response.iter_content(1 << 16):
            body += part
            if len(body) > MOST_ANSWER_BYTES:
                response.close()
                raise requests.exceptions.ContentDecodingError("the answer is too long")
        response._content = bytes(body)
        self.last = response
        return response

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        settings = super().merge_environment_settings(url, proxies, stream, verify, cert)
        settings["verify"] = self._verify
        return settings

    def _own(self, url: str) -> str:
        parts = urlsplit(url)
        if (
            parts.scheme == "https"
            and parts.hostname == self._login.hostname
            and parts.port in (None, self._login.port)
        ):
            return parts._replace(netloc=self._login.netloc).geturl()
        known = {parts.hostname, self._login.hostname} <= WELL_KNOWN_AUTHORITY_HOSTS
        if parts.scheme == "https" and known and parts.port is None:
            return url
        raise Elsewhere


class SignIn:
    """Blocking: call `token` in a thread. Calls wait for each other, so a credential is tried by one at a time."""

    def __init__(
        self,
        cloud: Cloud,
        tenant: TenantId,
        credential: Payload,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        timeout: tuple[float, float] = TIMEOUT_SECONDS,
    ) -> None:
        self._timeout = timeout
        self._cloud = cloud
        self._tenant = tenant
        self._credential = credential
        self._now = now
        self._lock = threading.Lock()
        self._tokens: dict[Resource, AccessToken] = {}
        self._refused: dict[Resource | None, SignInFailed] = {}

    def token(self, resource: Resource, *, fresh: bool = False) -> AccessToken:
        """An access token good for five minutes at least; `fresh`: not the one that a service just refused.

        Raises `SignInFailed` (again and again, without asking), or `ConnectionLost`, `ServiceUnavailable`, `Throttled`.
        """
        with self._lock:
            for refused in (self._refused.get(None), self._refused.get(resource)):
                if refused is not None:
                    raise SignInFailed(*refused.args)
            known = self._tokens.get(resource)
            if known is not None and not fresh and self._now() + EARLY < known.expires_at:
                return known
            outcome = self._ask(resource)
            if isinstance(outcome, SignInFailed):
                self._refused[None if outcome.args[1] in FOR_ALL else resource] = outcome
            if isinstance(outcome, TenantryError):
                raise outcome
            self._tokens[resource] = outcome
            return outcome

    def close(self) -> None:
        """Forget the tokens."""
        with self._lock:
            for token in self._tokens.values():
                token.value.close()
            self._tokens.clear()

    def _ask(self, resource: Resource) -> AccessToken | TenantryError:
        """Errors are values here: an exception under way would keep the request, and with it the credential."""
        asked = self._now()
        if isinstance(self._credential, AppCertificate) and not _is_rsa(self._credential.certificate_pem):
            return _failure(0, NOT_RSA)
        session = LoginSession(self._cloud.login, self._cloud.ca_bundle, self._timeout)
        try:
            with session:
                answer = self._answer(session, f"{self._origin(resource)}/.default")
        except Elsewhere:
            return _failure(0, FEDERATED)
        except (requests.exceptions.RequestException, MsalError, ValueError, RuntimeError) as error:
            return _told(error, session.last)
        if "access_token" in answer:
            expires_at = asked + timedelta(seconds=min(int(answer.get("expires_in", 0)), LONGEST_SECONDS))
            return AccessToken(Secret(answer["access_token"]), expires_at)
        code = code_of(answer)
        status = session.last.status_code if session.last is not None else 400
        found = refusal(code, str(answer.get("error", "")), str(answer.get("suberror", "")), status=status)
        if found.category == "transient":
            why = found.sentence.removesuffix(".")
            return _away(session.last, f"{why} (AADSTS{code})" if code else why)
        return _failure(code, found)

    def _origin(self, resource: Resource) -> str:
        return {"graph": self._cloud.graph, "exchange": self._cloud.exchange}[resource]

    def _answer(self, session: LoginSession, scope: str) -> dict[str, Any]:
        """MSAL's answer from a new application each time: it would replay a refusal, or a token, from its memory."""
        common: dict[str, Any] = {
            "authority": f"{self._cloud.login}/{self._tenant}",
            "http_client": session,
            "instance_discovery": False,
        }
        match self._credential:
            case AppCertificate(client_id=client_id, certificate_pem=certificate_pem, private_key_pem=private_key_pem):
                key = {"private_key": private_key_pem, "public_certificate": certificate_pem}
                app = msal.ConfidentialClientApplication(client_id, client_credential=key, **common)
                return dict(app.acquire_token_for_client([scope]) or {})
            case AppSecret(client_id=client_id, secret=secret):
                app = msal.ConfidentialClientApplication(client_id, client_credential=secret, **common)
                return dict(app.acquire_token_for_client([scope]) or {})
            case ServiceAccount(username=username, password=password, client_id=client_id):
                _accept_password_grant()
                app = msal.PublicClientApplication(client_id, **common)
                return dict(app.acquire_token_by_username_password(username, password, [scope]) or {})


def _failure(code: int, found: Refusal) -> SignInFailed:
    return SignInFailed(code, found.category, f"{found.sentence}{f' (AADSTS{code})' if code else ''}", found.remedy)


def _told(error: Exception, last: requests.Response | None) -> TenantryError:
    """MSAL raises what the login service answers to its first question, of every kind: the answer itself tells more."""
    if isinstance(error, requests.exceptions.RequestException) or last is None:
        return ConnectionLost("login", type(error).__name__)
    try:
        answer = last.json()
    except requests.exceptions.JSONDecodeError:
        answer = None
    answer = answer if isinstance(answer, dict) else {}
    code = code_of(answer)
    found = refusal(code, str(answer.get("error", "")), status=last.status_code)
    if code and found.category != "transient":
        return _failure(code, found)
    return _away(last, f"AADSTS{code}" if code else "no answer to a sign-in")


def _away(last: requests.Response | None, why: str) -> TransientError:
    """With the time that the service asks to wait, if it says so."""
    seconds = retry_after(last.headers) if last is not None else None
    if seconds is not None:
        return Throttled("login", seconds)
    return ServiceUnavailable("login", last.status_code if last is not None else 0, why)


def _is_rsa(certificate_pem: str) -> bool:
    return isinstance(x509.load_pem_x509_certificate(certificate_pem.encode()).public_key(), RSAPublicKey)


def _accept_password_grant() -> None:
    """MSAL warns at each password sign-in that it will drop the grant; `tenantry doctor` says so where it helps."""
    warnings.filterwarnings(
        "ignore", message="This API has been deprecated for public client", category=DeprecationWarning
    )


def _no_authentication(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
