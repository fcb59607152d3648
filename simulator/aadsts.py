"""Entra ID's sign-in errors, one row each: the code, the HTTP status, the OAuth error and the text.

Sources: learn.microsoft.com/entra/identity-platform/reference-error-codes for the texts, public captures of the live
service for the statuses (a wrong secret is 401 and a wrong password 400, which changes what client libraries cache).
The pairs of 50053, 50055, 50057, 50079 and 50158 follow 50076, as nobody has published theirs.
"""

from __future__ import annotations

import base64
import json
import uuid
from datetime import datetime
from typing import NamedTuple

from starlette.responses import JSONResponse

from simulator.world import SignInState


class Refusal(NamedTuple):
    """`text` has {named} holes. `claims` tells whether the answer carries a claims challenge."""

    status: int
    error: str
    text: str
    suberror: str | None = None
    claims: bool = False


REFUSALS: dict[int, Refusal] = {
    50034: Refusal(400, "invalid_grant", "The user account {user} does not exist in the {tenant} directory. "
                   "To sign into this application, the account must be added to the directory."),
    50049: Refusal(400, "invalid_instance", "Unknown or invalid instance."),
    50053: Refusal(400, "invalid_grant", "The account is locked, you've tried to sign in too many times with an "
                   "incorrect user ID or password."),
    50055: Refusal(400, "invalid_grant", "The password is expired.", "user_password_expired"),
    50057: Refusal(400, "invalid_grant", "The user account is disabled."),
    50059: Refusal(400, "invalid_request", "No tenant-identifying information found in either the request or implied "
                   "by any provided credentials."),
    50072: Refusal(400, "invalid_grant", "Due to a configuration change made by your administrator, or because you "
                   "moved to a new location, you must enroll in multi-factor authentication to access "
                   "'{resource}'.", "basic_action", True),
    50076: Refusal(400, "invalid_grant", "Due to a configuration change made by your administrator, or because you "
                   "moved to a new location, you must use multi-factor authentication to access '{resource}'.",
                   "basic_action", True),
    50079: Refusal(400, "invalid_grant", "Due to a configuration change made by your administrator, or because you "
                   "moved to a new location, you must enroll in multi-factor authentication to access "
                   "'{resource}'.", "basic_action", True),
    50126: Refusal(400, "invalid_grant", "Error validating credentials due to invalid username or password."),
    50158: Refusal(400, "invalid_grant", "External security challenge not satisfied. User will be redirected to "
                   "another page or authentication provider to satisfy additional authentication challenges.",
                   "basic_action", True),
    50194: Refusal(400, "unauthorized_client", "Application '{client}'({client}) is not configured as a multi-tenant "
                   "application. Usage of the /common endpoint is not supported for such apps. Use a tenant-specific "
                   "endpoint or configure the application to be multi-tenant."),
    50196: Refusal(400, "invalid_grant", "The server terminated an operation because it encountered a client request "
                   "loop. Please contact your app vendor."),
    53000: Refusal(400, "interaction_required", "Device is not in required device state: {{0}}. Conditional Access "
                   "policy requires a compliant device, and the device is not compliant.", "message_only", True),
    53001: Refusal(400, "interaction_required", "Device is not in required device state: {{0}}. Conditional Access "
                   "policy requires a domain joined device, and the device is not domain joined.",
                   "message_only", True),
    53003: Refusal(400, "interaction_required", "Access has been blocked by Conditional Access policies. The access "
                   "policy does not allow token issuance.", "message_only", True),
    530034: Refusal(400, "invalid_grant", "A delegated administrator was blocked from accessing the tenant due to "
                    "account risk in their home tenant."),
    530035: Refusal(400, "access_denied", "Access has been blocked by security defaults. This is due to the request "
                    "being using legacy authentication or being deemed unsafe by security defaults policies."),
    65001: Refusal(400, "invalid_grant", "The user or administrator has not consented to use the application with ID "
                   "'{client}' named '{app}'. Send an interactive authorization request for this user and resource.",
                   "consent_required"),
    65002: Refusal(400, "invalid_client", "Consent between first party application '{client}' and first party "
                   "resource '{resource}' must be configured via preauthorization."),
    650052: Refusal(400, "invalid_client", "The app is trying to access a service '{resource}' that your organization "
                    "'{tenant}' lacks a service principal for. Contact your IT Admin to review the configuration of "
                    "your service subscriptions."),
    70003: Refusal(400, "unsupported_grant_type", "The app requested an unsupported grant type '{value}'."),
    70011: Refusal(400, "invalid_scope", "The provided request must include a 'scope' input parameter. The provided "
                   "value for the input parameter 'scope' is not valid. The scope {value} is not valid."),
    1002012: Refusal(400, "invalid_scope", "The provided value for scope {value} is not valid. Client credential "
                     "flows must have a scope value with /.default suffixed to the resource identifier (application "
                     "ID URI)."),
    28000: Refusal(400, "invalid_request", "Provided value for the input parameter scope is not valid because it "
                   "contains more than one resource. Scope {value} is not valid."),
    700016: Refusal(400, "unauthorized_client", "Application with identifier '{client}' was not found in the directory "
                    "'{tenant}'. This can happen if the application has not been installed by the administrator of "
                    "the tenant or consented to by any user in the tenant. You may have sent your authentication "
                    "request to the wrong tenant."),
    700021: Refusal(401, "invalid_client", "Client assertion application identifier doesn't match 'client_id' "
                    "parameter."),
    700023: Refusal(401, "invalid_client", "Client assertion audience claim does not match Realm issuer."),
    700024: Refusal(401, "invalid_client", "Client assertion is not within its valid time range. Current time: {now}, "
                    "assertion valid from {value}."),
    700027: Refusal(401, "invalid_client", "{value}"),
    7000112: Refusal(401, "unauthorized_client", "Application '{client}'({app}) is disabled."),
    7000215: Refusal(401, "invalid_client", "Invalid client secret provided. Ensure the secret being sent in the "
                     "request is the client secret value, not the client secret ID, for a secret added to app "
                     "'{client}'."),
    7000218: Refusal(401, "invalid_client", "The request body must contain the following parameter: "
                     "'client_assertion' or 'client_secret'."),
    7000222: Refusal(401, "invalid_client", "The provided client secret keys for app '{client}' are expired. Visit the "
                     "Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using "
                     "certificate credentials for added security: https://aka.ms/certCreds."),
    50027: Refusal(401, "invalid_client", "JWT token is invalid or malformed."),
    500011: Refusal(400, "invalid_resource", "The resource principal named {resource} was not found in the tenant "
                    "named {tenant}. This can happen if the application has not been installed by the administrator "
                    "of the tenant or consented to by any user in the tenant. You might have sent your authentication "
                    "request to the wrong tenant."),
    700082: Refusal(400, "invalid_grant", "The refresh token has expired due to inactivity."),
    80001: Refusal(400, "invalid_grant", "Unable to connect to Active Directory. Authentication Agent is unable to "
                   "connect to Active Directory."),
    80002: Refusal(400, "invalid_grant", "Active Directory request timed out. Authentication Agent's password "
                   "validation request timed out."),
    80014: Refusal(400, "invalid_grant", "Validation request responded after maximum elapsed time exceeded."),
    90002: Refusal(400, "invalid_request", "Tenant '{tenant}' not found. Check to make sure you have the correct "
                   "tenant ID and are signing into the correct cloud. Check with your subscription administrator, "
                   "this may happen if there are no active subscriptions for the tenant."),
    90033: Refusal(503, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    90055: Refusal(429, "invalid_request", "Tenant request is throttled due to too many requests coming into the "
                   "tenant. Please retry later."),
    90094: Refusal(400, "invalid_grant", "An administrator of {tenant} has set a policy that prevents you from "
                   "granting {app} the permissions it is requesting.", "consent_required"),
    90099: Refusal(400, "invalid_grant", "The application '{client}' ({app}) has not been authorized in the tenant "
                   "'{tenant}'. Applications must be authorized to access the customer tenant before partner "
                   "delegated administrators can use them."),
    900144: Refusal(400, "invalid_request", "The request body must contain the following parameter: '{value}'."),
    9001023: Refusal(400, "invalid_request", "The grant type is not supported over the /common or /consumers "
                     "endpoints. Please use the /organizations or tenant-specific endpoint."),
}  # fmt: skip
"""What is refused, by AADSTS number."""

ACCOUNT_STATES = {
    SignInState.MFA_REQUIRED: 50076,
    SignInState.MFA_ENROLMENT: 50079,
    SignInState.CONDITIONAL_ACCESS: 53003,
    SignInState.EXTERNAL_CHALLENGE: 50158,
    SignInState.LOCKED: 50053,
    SignInState.DISABLED: 50057,
    SignInState.PASSWORD_EXPIRED: 50055,
}
"""Why an account with the right password is refused."""

APP_STATES = {SignInState.DISABLED: 7000112, SignInState.PASSWORD_EXPIRED: 7000222}
"""Why an application with the right credential is refused; any other state is a Conditional Access policy, 53003."""

STATUS_CODES = {429: 90055, 500: 90033, 502: 90033, 503: 90033, 504: 90033}
"""The error in the body of a refusal that is only known by its HTTP status."""


class SignInRefused(Exception):
    """A sign-in that fails. args: the AADSTS code, the texts for the holes of its row."""

    def __init__(self, code: int, texts: dict[str, str]) -> None:
        super().__init__(code, texts)
        self.code = code
        self.texts = texts


class _Blank(dict[str, str]):
    """Names the hole that nobody filled."""

    def __missing__(self, key: str) -> str:
        return f"<{key}>"


def error_answer(
    code: int,
    texts: dict[str, str],
    now: datetime,
    correlation_id: str | None,
    *,
    status: int | None = None,
    headers: dict[str, str] | None = None,
    one_line: bool = False,
) -> JSONResponse:
    """The error document of `code`. `one_line` puts spaces where older answers have line breaks."""
    row = REFUSALS.get(code, Refusal(400, "invalid_grant", "Sign-in was refused."))
    trace, correlation = str(uuid.uuid4()), correlation_id or str(uuid.uuid4())
    moment = f"{now:%Y-%m-%d %H:%M:%SZ}"
    parts = [
        f"AADSTS{code}: {row.text.format_map(_Blank(texts))}",
        f"Trace ID: {trace}",
        f"Correlation ID: {correlation}",
        f"Timestamp: {moment}",
    ]
    body: dict[str, object] = {
        "error": row.error,
        "error_description": (" " if one_line else "\r\n").join(parts),
        "error_codes": [code],
        "timestamp": moment,
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": f"https://login.microsoftonline.com/error?code={code}",
    }
    if row.suberror:
        body["suberror"] = row.suberror
    if row.claims:
        body["claims"] = json.dumps({"access_token": {"capolids": {"essential": True, "values": [str(uuid.uuid4())]}}})
    return JSONResponse(body, status or row.status, {**entra_headers(trace), **(headers or {})})


def entra_headers(request_id: str) -> dict[str, str]:
    """Headers of every answer of the token endpoint."""
    return {
        "Cache-Control": "no-store, no-cache",
        "Pragma": "no-cache",
        "Expires": "-1",
        "X-Content-Type-Options": "nosniff",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "x-ms-request-id": request_id,
        "x-ms-ests-server": "2.1.0 - simulated",
    }


def encoded(value: object) -> str:
    """JSON as base64url without padding."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
