"""What may be released, decided purely: from the folded run, tenant and credential, and the request.

Rules are rows of a table, looked at in order; the first that does not hold is the reason. The word of a reason is what
`ReleaseDenied` and `DataKeyDenied` store, its sentence is what the asker reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from datetime import datetime
from typing import TypeAlias

import msgspec

from domain import credential as credentials
from domain.credential import Credential
from domain.events import CredentialReleased, DataKeyDenied, DataKeyReleased, ReleaseDenied
from domain.ids import ENTRA, EXCHANGE_SERVER, RunId, Slot, TenantId, workloads_of
from domain.run import Run
from domain.tenant import Tenant

RELEASES_PER_ACTIVATION = 8
"""An activation signs in once per credential and resource; the rest is for answers that were lost."""

VERIFICATION = "verification"
"""The activation that an operator's verification is released to, in epoch 0: no tenant actor has it."""

GRAPH, EXCHANGE, ONPREM = "graph", "exchange", "exchange-server"
PURPOSES: dict[Slot, frozenset[str]] = {
    ENTRA: frozenset({GRAPH, EXCHANGE}),
    EXCHANGE_SERVER: frozenset({ONPREM}),
}
"""What the credential of a slot may sign in to."""

REASONS: dict[str, str] = {
    "no-such-tenant": "the tenant was never registered",
    "tenant-not-active": "the tenant is suspended or offboarded",
    "no-such-run": "there is no such run",
    "run-of-another-tenant": "the run belongs to another tenant",
    "run-not-started": "the run is not started, or it has ended",
    "stale-epoch": "another activation carries out the run now",
    "another-activation": "the run was given to another activation",
    "no-credential": "nothing is sealed for this tenant and slot; set one with `tenantry credential set`",
    "credential-revoked": "it is revoked; set a new one with `tenantry credential set`",
    "credential-rejected": "the service refuses it for good: set a new one, or mend the cause and verify it",
    "credential-locked": "its account is locked at the service, and trying again would prolong that",
    "no-verification": "a verification has an operator and an id that no run has",
    "credential-in-use": "a run that is under way has it: let `tenantry collect` end that, or cancel it",
    "purpose-not-in-slot": "this slot does not sign in to what was asked for",
    "purpose-not-in-run": "no dataset of the run needs what was asked for",
    "too-many-releases": f"this activation has had it {RELEASES_PER_ACTIVATION} times, or this verification twice",
    "envelope-missing": "the secret store does not have its envelope",
    "envelope-exchanged": "the envelope in the secret store is not the one that was recorded",
    "envelope-rejected": "its envelope does not open",
    "no-receiver": "a data key goes to a run, or to an operator who says why",
    "no-data-key": "the tenant has no data key (any more)",
    "data-key-missing": "the secret store does not have it",
    "data-key-rejected": "what wraps it does not open",
    "data-key-exchanged": "the data key in the secret store is not the one that was recorded",
}
"""Word to sentence. The `envelope-` and `data-key-` words are the keyholder's, after the decision."""


class ReleaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`transit_key`: the 32 bytes that the answer is sealed to. `purpose`: graph, exchange or exchange-server.

    By an activation of `run`; or, when `operator` is set, for the verification whose id stands in `run`.
    """

    run: RunId
    tenant: TenantId
    slot: Slot
    activation: str
    epoch: int
    purpose: str
    transit_key: bytes
    operator: str | None = None


class DataKeyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """By an activation of `run`, or by `operator` who says `why`."""

    tenant: TenantId
    run: RunId | None = None
    activation: str = ""
    epoch: int = 0
    operator: str | None = None
    why: str = ""


class _Case(msgspec.Struct, frozen=True):
    """Everything a rule looks at. `holders`: runs that were given the credential. Without `now` a lockout lasts."""

    run: Run | None
    tenant: Tenant | None
    request: ReleaseRequest | DataKeyRequest
    credential: Credential | None = None
    holders: Collection[Run] = ()
    now: datetime | None = None


_Rule: TypeAlias = tuple[str, Callable[[_Case], bool]]


def digest_of(envelope: bytes) -> str:
    """SHA-256 in hex of an envelope as it stands in the secret store: `digest` of the credential's events."""
    return hashlib.sha256(envelope).hexdigest()


def _had(case: _Case) -> int:
    assert case.credential is not None  # noqa: S101 - the rule before says so
    asked = (case.request.run, case.request.activation)
    return next((n for run, activation, n in case.credential.releases if (run, activation) == asked), 0)


def _locked(case: _Case) -> bool:
    if case.credential is None or case.credential.lockout is None:
        return False
    return case.now is None or credentials.locked(case.credential, case.now) is not None


def _refused(case: _Case) -> bool:
    assert case.credential is not None  # noqa: S101 - the rule before says so
    assert isinstance(case.request, ReleaseRequest)  # noqa: S101 - a data key is refused by nobody else
    return credentials.lasting(case.credential, case.request.purpose) is not None


def _in_use(case: _Case) -> bool:
    return any(run.state == "started" and run.id != case.request.run for run in case.holders)


def _verifies(case: _Case) -> bool:
    request = case.request
    named = bool(request.operator and request.operator.strip())
    return named and case.run is None and (request.activation, request.epoch) == (VERIFICATION, 0)


def _needed(run: Run) -> frozenset[str]:
    return frozenset(purpose for dataset in run.datasets for purpose in workloads_of(dataset))


_TENANT_RULES: tuple[_Rule, ...] = (
    ("no-such-tenant", lambda case: case.tenant is not None),
    ("tenant-not-active", lambda case: case.tenant is not None and case.tenant.state == "active"),
)
_RUN_RULES: tuple[_Rule, ...] = (
    ("no-such-run", lambda case: case.run is not None),
    ("run-of-another-tenant", lambda case: case.run is not None and case.run.tenant == case.request.tenant),
    ("run-not-started", lambda case: case.run is not None and case.run.state == "started"),
    ("stale-epoch", lambda case: case.run is not None and case.run.epoch == case.request.epoch),
    ("another-activation", lambda case: case.run is not None and case.run.activation == case.request.activation),
)
_USABLE_RULES: tuple[_Rule, ...] = (
    ("no-credential", lambda case: case.credential is not None),
    ("credential-revoked", lambda case: case.credential is not None and case.credential.state != "revoked"),
    ("credential-locked", lambda case: not _locked(case)),
    ("credential-in-use", lambda case: not _in_use(case)),
)
"""Two never try the same password at once."""
_CREDENTIAL_RULES: tuple[_Rule, ...] = (
    *_USABLE_RULES,
    ("credential-rejected", lambda case: not _refused(case)),
    ("too-many-releases", lambda case: _had(case) < RELEASES_PER_ACTIVATION),
)
_VERIFICATION_RULES: tuple[_Rule, ...] = (
    ("no-verification", _verifies),
    *_USABLE_RULES,
)
"""One that stands rejected is released: a verification is how it is found out that the cause is mended."""
_OPERATOR_RULES: tuple[_Rule, ...] = (
    ("no-such-tenant", lambda case: case.tenant is not None),
    ("tenant-not-active", lambda case: case.tenant is not None and case.tenant.state != "offboarded"),
)
_DATA_KEY_RULES: tuple[_Rule, ...] = (
    ("no-data-key", lambda case: case.tenant is not None and case.tenant.data_key is not None),
)


def _broken(rules: tuple[_Rule, ...], case: _Case) -> str | None:
    return next((why for why, holds in rules if not holds(case)), None)


def decide_release(
    *,
    run: Run | None,
    tenant: Tenant | None,
    credential: Credential | None,
    request: ReleaseRequest,
    holders: Collection[Run] = (),
    now: datetime | None = None,
) -> CredentialReleased | ReleaseDenied:
    """`tenant` and `credential` are those that the request names, `run` too; None: there is none. `holders`: the runs
    among the credential's releases. Without `now` a locked account stays locked."""
    case = _Case(run, tenant, request, credential, holders, now)
    in_slot: _Rule = ("purpose-not-in-slot", lambda _: request.purpose in PURPOSES[request.slot])
    in_run: _Rule = ("purpose-not-in-run", lambda _: run is not None and request.purpose in _needed(run))
    once: _Rule = ("too-many-releases", lambda case: _had(case) < len(PURPOSES[request.slot]))
    for_run = (*_RUN_RULES, in_slot, in_run, *_CREDENTIAL_RULES)
    rules = for_run if request.operator is None else (in_slot, *_VERIFICATION_RULES, once)
    why = _broken((*_TENANT_RULES, *rules), case)
    if why is not None:
        return denied(request, why)
    return CredentialReleased(
        run=request.run,
        activation=request.activation,
        epoch=request.epoch,
        purpose=request.purpose,
        transit_key=hashlib.sha256(request.transit_key).hexdigest(),
        operator=request.operator,
    )


def overtaken(*, run: Run | None, tenant: Tenant | None, request: ReleaseRequest) -> str | None:
    """Why the run or the tenant does not get what was decided on an earlier state of them; None when it does."""
    rules = _TENANT_RULES if request.operator is not None else (*_TENANT_RULES, *_RUN_RULES)
    return _broken(rules, _Case(run, tenant, request))


def denied(request: ReleaseRequest, why: str) -> ReleaseDenied:
    """`why`: a word of `REASONS`."""
    return ReleaseDenied(run=request.run, activation=request.activation, why=why)


def decide_data_key_release(
    *, run: Run | None, tenant: Tenant | None, request: DataKeyRequest
) -> DataKeyReleased | DataKeyDenied:
    """`run` and `tenant` are those that the request names; None: there is none."""
    case = _Case(run, tenant, request)
    to_run = request.run is not None
    rules = (*_TENANT_RULES, *_RUN_RULES) if to_run else _OPERATOR_RULES
    one_receiver = to_run != bool(request.operator and request.operator.strip() and request.why.strip())
    why = _broken((*rules, *_DATA_KEY_RULES), case) if one_receiver else "no-receiver"
    if why is not None or tenant is None or tenant.data_key is None:
        return data_key_denied(request, why or "no-data-key")
    return DataKeyReleased(key=tenant.data_key, run=request.run, operator=request.operator, why=request.why)


def data_key_denied(request: DataKeyRequest, why: str) -> DataKeyDenied:
    """`why`: a word of `REASONS`."""
    return DataKeyDenied(run=request.run, activation=request.activation, operator=request.operator, why=why)
