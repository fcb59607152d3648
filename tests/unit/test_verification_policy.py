"""Who may verify a credential, and how long a locked account is left alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import folds
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.standing import CredentialStands, explained, rejection, told
from domain import credential as credentials
from domain.credential import Credential
from domain.errors import ReleaseRefused
from domain.events import (
    CredentialExpiring,
    CredentialRejected,
    CredentialReleased,
    CredentialRevoked,
    CredentialRotated,
    CredentialSealed,
    CredentialVerified,
    ReleaseDenied,
    RunFinished,
    RunRequested,
    RunStarted,
    TenantRegistered,
    TenantSuspended,
)
from domain.ids import ENTRA, EXCHANGE_SERVER, Dataset, RunId, Slot, TenantId
from domain.run import Run
from domain.tenant import Tenant
from vault.policy import REASONS, VERIFICATION, ReleaseRequest, decide_release

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
CONTOSO = TenantId("11111111-2222-3333-4444-555555555555")
RUN = RunId("20261122T110000-00000001")
ASKED = RunId("20261122T120000-00000002")

REGISTERED = TenantRegistered(tenant=CONTOSO, name="Contoso", domain="contoso.com", cloud="public")
SEALED = CredentialSealed(
    tenant=CONTOSO, slot=ENTRA, kind="app-secret", identity="app", vault_key="k1", digest="d1", expires=NOON
)
REQUESTED = RunRequested(run=RUN, tenant=CONTOSO, datasets=(Dataset("entra.users"),))
STARTED = RunStarted(activation="a1", epoch=1)
REJECTED = CredentialRejected(code=50076, category="policy", permanent=True, run=RUN, resource="graph")
LOCKED = rejection(50053, "locked", RUN, "graph", NOON)
SAME_ACCOUNT = [
    [CredentialRotated(kind="app-secret", identity="app", vault_key="k1", digest="d2")],
    [CredentialRevoked(reason="x"), msgspec.structs.replace(SEALED, digest="d2")],
    [CredentialRotated(kind="app-secret", identity="APP", vault_key="k1", digest="d2")],
]
"""A new password does not unlock an account."""
REQUEST = ReleaseRequest(
    run=ASKED,
    tenant=CONTOSO,
    slot=ENTRA,
    activation=VERIFICATION,
    epoch=0,
    purpose="graph",
    transit_key=bytes(32),
    operator="ann@host",
)
RELEASED = CredentialReleased(
    run=ASKED, activation=VERIFICATION, epoch=0, purpose="graph", transit_key="t", operator="ann@host"
)


@dataclass(frozen=True)
class Case:
    """The allowed verification; each test changes one thing."""

    run: Run | None = None
    tenant: Tenant | None = folds.tenant([REGISTERED])  # noqa: RUF009 - folded once, frozen
    credential: Credential | None = folds.credential([SEALED])  # noqa: RUF009
    request: ReleaseRequest = REQUEST
    holders: tuple[Run, ...] = ()
    now: datetime | None = NOON

    def decide(self) -> CredentialReleased | ReleaseDenied:
        return decide_release(
            run=self.run,
            tenant=self.tenant,
            credential=self.credential,
            request=self.request,
            holders=self.holders,
            now=self.now,
        )


ALLOWED = Case()


def asking(**changed: object) -> Case:
    return replace(ALLOWED, request=msgspec.structs.replace(REQUEST, **changed))


def held_by(*events: RunRequested | RunStarted | RunFinished) -> Case:
    run = folds.run(events)
    assert run is not None
    return replace(ALLOWED, holders=(run,))


DENIALS = {
    "no-such-tenant": [replace(ALLOWED, tenant=None)],
    "tenant-not-active": [replace(ALLOWED, tenant=folds.tenant([REGISTERED, TenantSuspended(reason="asked")]))],
    "purpose-not-in-slot": [asking(purpose="exchange-server"), asking(slot=EXCHANGE_SERVER)],
    "no-verification": [
        asking(operator=" "),
        asking(activation="a1"),
        asking(epoch=1),
        replace(ALLOWED, run=folds.run([REQUESTED, STARTED])),
    ],
    "no-credential": [replace(ALLOWED, credential=None)],
    "credential-revoked": [replace(ALLOWED, credential=folds.credential([SEALED, CredentialRevoked(reason="x")]))],
    "credential-locked": [
        replace(ALLOWED, credential=folds.credential([SEALED, LOCKED]), now=now)
        for now in (NOON, NOON + timedelta(minutes=59), None)
    ]
    + [replace(ALLOWED, credential=folds.credential([SEALED, LOCKED, REJECTED]))]
    + [replace(ALLOWED, credential=folds.credential([SEALED, LOCKED, *new])) for new in SAME_ACCOUNT],
    "credential-in-use": [held_by(REQUESTED, STARTED)],
    "too-many-releases": [replace(ALLOWED, credential=folds.credential([SEALED, RELEASED, RELEASED]))],
}


@pytest.mark.parametrize(("why", "case"), [(why, case) for why, cases in DENIALS.items() for case in cases])
def test_every_broken_rule_denies_the_verification_with_its_word(why: str, case: Case) -> None:
    assert case.decide() == ReleaseDenied(run=ASKED, activation=case.request.activation, why=why)
    assert why in REASONS


ALLOWANCES = {
    "a credential that stands rejected": replace(ALLOWED, credential=folds.credential([SEALED, REJECTED])),
    "a lockout that is over": replace(
        ALLOWED, credential=folds.credential([SEALED, LOCKED]), now=NOON + timedelta(minutes=60)
    ),
    "a lockout that is over, of one that stands rejected": replace(
        ALLOWED, credential=folds.credential([SEALED, LOCKED, REJECTED]), now=NOON + timedelta(minutes=60)
    ),
    "another account after a lockout": replace(
        ALLOWED,
        credential=folds.credential(
            [SEALED, LOCKED, CredentialRotated(kind="app-secret", identity="other", vault_key="k1", digest="d2")]
        ),
    ),
    "the second service": replace(ALLOWED, credential=folds.credential([SEALED, RELEASED])),
    "a run that has ended": held_by(REQUESTED, STARTED, RunFinished(outcomes=())),
    "a run that has not begun": held_by(REQUESTED),
}


@pytest.mark.parametrize("what", ALLOWANCES)
def test_what_does_not_stand_in_the_way_of_a_verification(what: str) -> None:
    decided = ALLOWANCES[what].decide()

    assert isinstance(decided, CredentialReleased)
    assert (decided.run, decided.operator) == (ASKED, "ann@host")


@given(
    operator=st.sampled_from([None, "", "ann@host"]),
    credential=st.sampled_from(
        [ALLOWED.credential, None, folds.credential([SEALED, REJECTED]), folds.credential([SEALED, LOCKED])]
    ),
    run=st.sampled_from([None, folds.run([REQUESTED]), folds.run([REQUESTED, STARTED])]),
    activation=st.sampled_from([VERIFICATION, "a1"]),
    epoch=st.integers(0, 2),
    now=st.sampled_from([None, NOON, NOON + timedelta(hours=2)]),
    slot=st.sampled_from([ENTRA, EXCHANGE_SERVER]),
)
def test_what_stands_rejected_goes_to_named_operators_only_and_what_is_locked_to_nobody(
    *,
    operator: str | None,
    credential: Credential | None,
    run: Run | None,
    activation: str,
    epoch: int,
    now: datetime | None,
    slot: Slot,
) -> None:
    request = msgspec.structs.replace(REQUEST, operator=operator, activation=activation, epoch=epoch, slot=slot)
    decided = replace(ALLOWED, request=request, credential=credential, run=run, now=now).decide()
    if isinstance(decided, ReleaseDenied):
        return
    assert credential is not None
    assert decided.operator == operator
    assert credential.lockout is None or (now is not None and now >= NOON + timedelta(hours=1))
    if operator is None:
        assert credential.state != "rejected"
        assert run is not None
        assert (run.state, run.activation, run.epoch) == ("started", activation, epoch)
    else:
        assert run is None
        assert (operator, activation, epoch) == ("ann@host", VERIFICATION, 0)


def test_a_locked_account_is_left_alone_by_runs_too() -> None:
    run = folds.run([REQUESTED, STARTED])
    request = msgspec.structs.replace(REQUEST, run=RUN, activation="a1", epoch=1, operator=None)
    case = Case(run=run, request=request, credential=folds.credential([SEALED, LOCKED]))

    assert case.decide() == ReleaseDenied(run=RUN, activation="a1", why="credential-locked")
    assert isinstance(replace(case, now=NOON + timedelta(hours=1)).decide(), CredentialReleased)


def test_a_release_that_is_refused_for_what_a_service_said_says_that_and_what_to_do() -> None:
    refused = ReleaseRefused("c", REASONS["credential-rejected"])
    explanation = explained(refused, folds.credential([SEALED, REJECTED]), NOON, "graph")

    assert isinstance(explanation, CredentialStands)
    assert str(explanation).startswith("AADSTS50076: Multi-factor authentication is demanded. Use an app registration")
    assert "`tenantry credential verify`" in str(explanation)
    assert "not tried before 13:00 UTC" in told(LOCKED)
    refused = ReleaseRefused("c", REASONS["credential-locked"])
    locked = explained(refused, folds.credential([SEALED, LOCKED, REJECTED]), NOON, "graph")
    assert "not tried before 13:00 UTC" in str(locked)


def test_a_release_that_is_refused_for_another_reason_keeps_its_words() -> None:
    refused = ReleaseRefused("c", REASONS["tenant-not-active"])

    assert explained(refused, folds.credential([SEALED, REJECTED]), NOON, "graph") is refused
    assert explained(refused, None, NOON, "graph") is refused


@pytest.mark.parametrize(
    "before",
    [[], [CredentialVerified(run=RUN, resource="graph")], [REJECTED], [LOCKED], [LOCKED, REJECTED]],
    ids=["sealed", "verified", "rejected", "locked", "both"],
)
def test_what_was_put_back_stands_as_it_stood_before(
    before: list[CredentialVerified | CredentialRejected],
) -> None:
    former = folds.credential([SEALED, *before])
    assert former is not None
    new = CredentialRotated(kind="service-account", identity="new", vault_key="k2", digest="d2")
    wrong = msgspec.structs.replace(REJECTED, code=50126, run=ASKED)

    restored = folds.credential([SEALED, *before, new, wrong, *credentials.restore(former)])

    assert restored is not None
    assert (restored.digest, restored.identity, restored.expires) == ("d1", "app", NOON)
    assert (restored.state, restored.refusals, restored.lockout) == (former.state, former.refusals, former.lockout)
    assert credentials.hindrance(restored, NOON, "graph") == credentials.hindrance(former, NOON, "graph")


def test_a_lockout_that_the_new_password_brought_about_holds_for_the_former_one_of_that_account_too() -> None:
    former = folds.credential([SEALED, LOCKED])
    assert former is not None
    later = msgspec.structs.replace(LOCKED, run=ASKED, until=NOON + timedelta(hours=3))
    new = CredentialRotated(kind="app-secret", identity="app", vault_key="k2", digest="d2")

    restored = folds.credential([SEALED, LOCKED, new, later, *credentials.restore(former)])

    assert restored is not None
    assert restored.lockout == later


def test_an_expiry_is_announced_once_and_that_of_a_new_credential_again() -> None:
    now, ahead = NOON - timedelta(days=3), timedelta(days=30)
    first = folds.credential([SEALED])
    assert first is not None
    announced = credentials.forecast(first, now, ahead)
    assert announced == [CredentialExpiring(expires=NOON)]

    again = folds.credential([SEALED, *announced])
    assert again is not None
    assert credentials.forecast(again, now, ahead) == []
    rotated = CredentialRotated(
        kind="app-certificate", identity="app", vault_key="k1", digest="d2", expires=NOON + timedelta(days=1)
    )
    replaced = folds.credential([SEALED, *announced, rotated])
    assert replaced is not None
    assert credentials.forecast(replaced, now, ahead) == [CredentialExpiring(expires=NOON + timedelta(days=1))]
