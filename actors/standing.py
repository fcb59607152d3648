"""What a refused sign-in means for the credential's next use, and how that is told."""

from __future__ import annotations

from datetime import UTC, datetime

from collectors.aadsts import CODES, LASTING, LOCKOUTS
from domain import credential as credentials
from domain.credential import Credential
from domain.errors import ReleaseRefused
from domain.events import CredentialRejected
from domain.ids import RunId
from vault.policy import REASONS

REASON = "credential-rejected"
KEPT_BACK = frozenset(REASONS[word] for word in ("credential-rejected", "credential-locked"))
OTHERWISE = ("The service refuses the credential.", "Set the right one with `tenantry credential set`.")
"""Sentence and remedy of a refusal without a code that the table knows."""
MENDED = "It is not tried again until it changes; once the cause is mended, `tenantry credential verify` tries it."


class CredentialStands(ReleaseRefused):
    """(credential, why and what to do). The vault keeps it back for what a service said earlier: nobody signs in."""

    sentence = "{1}"


def rejection(code: int, category: str, run: RunId, resource: str, now: datetime) -> CredentialRejected:
    """The event for a refusal: whether it lasts, and until when a passing one does."""
    lockout = LOCKOUTS.get(category)
    return CredentialRejected(
        code=code,
        category=category,
        permanent=category in LASTING,
        run=run,
        resource=resource,
        until=now + lockout if lockout else None,
    )


def explained(refused: ReleaseRefused, credential: Credential | None, now: datetime, purpose: str) -> ReleaseRefused:
    """The same, or why the credential is kept back, with the remedy of the service's own words."""
    if credential is None or refused.args[1] not in KEPT_BACK:
        return refused
    hindrance = credentials.hindrance(credential, now, purpose)
    return refused if hindrance is None else CredentialStands(refused.args[0], told(hindrance))


def told(refusal: CredentialRejected) -> str:
    """The code, what it means, what to do, and when it is tried again."""
    known = CODES.get(refusal.code)
    sentence, remedy = (known.sentence, known.remedy) if known else OTHERWISE
    again = MENDED if refusal.until is None else f"It is not tried before {refusal.until.astimezone(UTC):%H:%M} UTC."
    return " ".join([f"AADSTS{refusal.code}:" if refusal.code else "Sign-in refused:", sentence, remedy, again])
