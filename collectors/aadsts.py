"""Why Entra ID refuses a sign-in: a table of its codes, what each asks of people, and which may pass by themselves.

Codes: learn.microsoft.com/entra/identity-platform/reference-error-codes. The code decides, since the same refusal
comes with different OAuth errors; a code that is not here is judged by its OAuth error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple

Category = Literal["permanent-credential", "policy", "locked", "consent", "tenant-gone", "request", "transient"]
"""`request`: the question is wrong as it stands. Nobody asks it twice in a run, and the credential is not to blame."""


class Refusal(NamedTuple):
    """`reason`: a short stable word. `sentence`: what is the matter. `remedy`: what to do about it."""

    category: Category
    reason: str
    sentence: str
    remedy: str


_MFA = "Use an app registration with a certificate instead of a user account, or exclude the account from the policy."
_EGRESS = "Allow the addresses that Tenantry signs in from as a named location, or exclude this identity."
_NEW_CREDENTIAL = "Seal the right credential with `tenantry credential set`."
_MALFORMED = Refusal(
    "request",
    "malformed",
    "Entra ID does not take the request as it was sent.",
    "Check the addresses of the cloud in tenantry.toml; when they are right, report this code.",
)

CODES: Mapping[int, Refusal] = {
    50126: Refusal("permanent-credential", "wrong-password", "User name or password is wrong.", _NEW_CREDENTIAL),
    50034: Refusal("permanent-credential", "no-such-user", "The directory has no such user.", _NEW_CREDENTIAL),
    50055: Refusal(
        "permanent-credential", "password-expired", "The password has expired.", "Change it, then seal the new one."
    ),
    50057: Refusal(
        "permanent-credential", "account-disabled", "The account is disabled.", "Enable it, or use another."
    ),
    50173: Refusal("permanent-credential", "password-changed", "The grant was revoked.", _NEW_CREDENTIAL),
    50142: Refusal(
        "permanent-credential", "password-change-needed", "The password has to be changed.", "Change it, then seal it."
    ),
    7000215: Refusal("permanent-credential", "wrong-secret", "The client secret is wrong.", _NEW_CREDENTIAL),
    7000222: Refusal(
        "permanent-credential", "secret-expired", "The client secret has expired.", "Add a new one, then seal it."
    ),
    700016: Refusal(
        "permanent-credential",
        "no-such-app",
        "The application is unknown in this tenant.",
        "Check the client id, and let an administrator of the tenant consent to the application.",
    ),
    700027: Refusal(
        "permanent-credential",
        "certificate-unknown",
        "The certificate is not registered with the application.",
        "Upload the certificate to the app registration, or seal the one that is there.",
    ),
    700024: Refusal(
        "permanent-credential",
        "assertion-outdated",
        "The client assertion is out of date.",
        "Set this machine's clock.",
    ),
    7000112: Refusal(
        "permanent-credential", "app-disabled", "The application is disabled.", "Enable it in the tenant."
    ),
    7000229: Refusal(
        "permanent-credential",
        "no-service-principal",
        "The application has no service principal in this tenant.",
        "Let an administrator of the tenant consent to the application.",
    ),
    50194: Refusal(
        "permanent-credential",
        "single-tenant-app",
        "The application signs in to its own tenant only.",
        "Make it a multi-tenant application, or seal the credential of one of this tenant.",
    ),
    50076: Refusal("policy", "mfa-required", "Multi-factor authentication is demanded.", _MFA),
    50079: Refusal("policy", "mfa-enrolment", "The account has to enrol in multi-factor authentication.", _MFA),
    50072: Refusal("policy", "mfa-enrolment", "The account has to enrol in multi-factor authentication.", _MFA),
    50074: Refusal("policy", "mfa-required", "Strong authentication is demanded.", _MFA),
    50158: Refusal("policy", "external-challenge", "A further proof outside Entra ID is demanded.", _MFA),
    53003: Refusal("policy", "conditional-access", "Conditional Access blocks this sign-in.", _EGRESS),
    53000: Refusal("policy", "device-not-compliant", "Conditional Access wants a compliant device.", _EGRESS),
    53001: Refusal("policy", "device-not-joined", "Conditional Access wants a joined device.", _EGRESS),
    53011: Refusal("policy", "risk", "The sign-in is blocked because of its risk.", "Clear the risk in Entra ID."),
    530034: Refusal(
        "policy", "delegation-blocked", "Delegated administration is blocked.", "Ask the tenant to allow it."
    ),
    530035: Refusal("policy", "security-defaults", "Security defaults block this sign-in.", _MFA),
    9001023: Refusal("policy", "password-grant", "Passwords are not accepted at this address.", _MFA),
    50053: Refusal(
        "locked",
        "locked",
        "The account is locked, or the address signs in too often with wrong passwords.",
        "Wait until the lockout is over, and find out who else uses this account.",
    ),
    65001: Refusal(
        "consent", "not-consented", "Nobody has consented to this application.", "Consent as administrator."
    ),
    65004: Refusal("consent", "not-consented", "Consent was declined.", "Consent to the application as administrator."),
    90094: Refusal("consent", "admin-consent", "An administrator has to consent.", "Consent as administrator."),
    90099: Refusal("consent", "not-authorised", "The partner relationship lacks this application.", "Authorise it."),
    500011: Refusal(
        "consent",
        "no-resource",
        "The service is not there in this tenant.",
        "Check the tenant's licences, and consent to the application as administrator.",
    ),
    650052: Refusal("consent", "no-subscription", "The tenant lacks a subscription to the service.", "Add a licence."),
    50105: Refusal("consent", "not-assigned", "The user is not assigned to the application.", "Assign the user to it."),
    90002: Refusal(
        "tenant-gone",
        "tenant-gone",
        "There is no such tenant in this cloud.",
        "Check tenant id and cloud; offboard the tenant if it was deleted.",
    ),
    50049: Refusal(
        "request",
        "unknown-instance",
        "The login service does not know the instance it was asked for.",
        "Check the login address of the cloud in tenantry.toml.",
    ),
    50059: Refusal(
        "request", "no-tenant", "The login service finds no tenant in the request.", "Check tenant id and cloud."
    ),
    50196: Refusal(
        "request",
        "loop",
        "The same sign-in comes too often.",
        "Let the next run try, and find out what else signs in with this application.",
    ),
    28000: _MALFORMED,
    70003: _MALFORMED,
    900144: _MALFORMED,
    90033: Refusal("transient", "unavailable", "The directory is not available for now.", "Try again later."),
    90055: Refusal("transient", "throttled", "The tenant's sign-ins are throttled.", "Try again later."),
    80001: Refusal("transient", "agent-unreachable", "The pass-through agent cannot be reached.", "Try again later."),
    80002: Refusal("transient", "agent-timeout", "The pass-through agent did not answer.", "Try again later."),
    80014: Refusal("transient", "agent-timeout", "The pass-through agent did not answer in time.", "Try again later."),
}

OAUTH_ERRORS: Mapping[str, Refusal] = {
    "invalid_client": Refusal("permanent-credential", "rejected", "The credential is rejected.", _NEW_CREDENTIAL),
    "unauthorized_client": Refusal(
        "permanent-credential", "rejected", "The application may not sign in here.", "Check the app registration."
    ),
    "invalid_grant": Refusal("permanent-credential", "rejected", "The credential is rejected.", _NEW_CREDENTIAL),
    "access_denied": Refusal(
        "policy", "denied", "The sign-in is denied.", "Look in the tenant's Entra sign-in log for what denies it."
    ),
    "invalid_request": _MALFORMED,
    "unsupported_grant_type": _MALFORMED,
    "interaction_required": Refusal("policy", "interaction", "A person would have to sign in.", _MFA),
    "consent_required": Refusal("consent", "not-consented", "Consent is missing.", "Consent as administrator."),
    "invalid_resource": Refusal(
        "consent", "no-resource", "The service is not there in this tenant.", "Check licences."
    ),
    "invalid_scope": Refusal("consent", "no-resource", "The service is not there in this tenant.", "Check the cloud."),
}
UNKNOWN = Refusal("transient", "unknown", "Entra ID refused for a reason of its own.", "Try again later.")

LASTING: frozenset[str] = frozenset({"permanent-credential", "policy", "tenant-gone"})
"""Categories of refusal after which the credential is not tried again until it changes."""
LOCKOUTS: Mapping[str, timedelta] = {"locked": timedelta(minutes=60)}
"""How long after such a refusal nobody tries again. Entra's smart lockout begins with a minute and grows each time
(learn.microsoft.com/entra/identity/authentication/howto-password-smart-lockout); an hour is ours."""

_CODE = re.compile(r"AADSTS(\d{4,9})\b")


def code_of(answer: Mapping[str, Any]) -> int:
    """The AADSTS number in an OAuth error answer, or 0."""
    codes = answer.get("error_codes")
    if isinstance(codes, list) and codes and isinstance(codes[0], int):
        return codes[0]
    found = _CODE.search(str(answer.get("error_description", ""))[:2000])
    return int(found[1]) if found else 0


def refusal(code: int, error: str = "", suberror: str = "", *, status: int = 400) -> Refusal:
    """What a refusal means, by its code, else by its OAuth error. An unknown one may pass, and so may one with the
    `status` of a service in trouble."""
    if code in CODES:
        return CODES[code]
    if status == 429 or status >= 500:
        return UNKNOWN
    return OAUTH_ERRORS.get("consent_required" if suberror == "consent_required" else error, UNKNOWN)
