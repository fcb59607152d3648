"""Which release is allowed: one denial for each rule, and what a release always implies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import folds
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import run as runs
from domain.credential import FOR_ALL, Credential
from domain.events import (
    CredentialRejected,
    CredentialReleased,
    CredentialRevoked,
    CredentialRotated,
    CredentialSealed,
    DataKeyCreated,
    DataKeyDenied,
    DataKeyReleased,
    ReleaseDenied,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunRequested,
    RunResumed,
    RunStarted,
    TenantOffboarded,
    TenantRegistered,
    TenantSuspended,
)
from domain.ids import ENTRA, EXCHANGE_SERVER, Dataset, RunId, Slot, TenantId, workloads_of
from domain.run import Run
from domain.tenant import Tenant
from vault.policy import (
    PURPOSES,
    REASONS,
    RELEASES_PER_ACTIVATION,
    DataKeyRequest,
    ReleaseRequest,
    decide_data_key_release,
    decide_release,
)

CONTOSO = TenantId("11111111-2222-3333-4444-555555555555")
FABRIKAM = TenantId("99999999-2222-3333-4444-555555555555")
RUN = RunId("20261122T203000-0a1b2c3d")
KEY = bytes(range(32))

REGISTERED = TenantRegistered(tenant=CONTOSO, name="Contoso", domain="contoso.com", cloud="public")
REQUESTED = RunRequested(run=RUN, tenant=CONTOSO, datasets=(Dataset("entra.users"), Dataset("exchange.mailboxes")))
STARTED = RunStarted(activation="a1", epoch=1)
SEALED = CredentialSealed(
    tenant=CONTOSO, slot=ENTRA, kind="app-secret", identity="app", vault_key="k1", digest="d1", expires=None
)
RELEASED = CredentialReleased(run=RUN, activation="a1", epoch=1, purpose="graph", transit_key="t")
REQUEST = ReleaseRequest(
    run=RUN, tenant=CONTOSO, slot=ENTRA, activation="a1", epoch=1, purpose="graph", transit_key=KEY
)


def rejected(*, permanent: bool) -> CredentialRejected:
    return CredentialRejected(code=7000215, category="credential", permanent=permanent, run=RUN, resource="graph")


@dataclass(frozen=True)
class Case:
    """The allowed release; each test changes one thing."""

    run: Run | None = folds.run([REQUESTED, STARTED])  # noqa: RUF009 - folded once, frozen
    tenant: Tenant | None = folds.tenant([REGISTERED])  # noqa: RUF009
    credential: Credential | None = folds.credential([SEALED])  # noqa: RUF009
    request: ReleaseRequest = REQUEST
    holders: tuple[Run, ...] = ()

    def decide(self) -> CredentialReleased | ReleaseDenied:
        return decide_release(
            run=self.run,
            tenant=self.tenant,
            credential=self.credential,
            request=self.request,
            holders=self.holders,
        )


ALLOWED = Case()
OTHER_RUN = folds.run([msgspec.structs.replace(REQUESTED, run=RunId("20261122T213000-0a1b2c3d")), STARTED])


def asking(**changed: object) -> Case:
    return replace(ALLOWED, request=msgspec.structs.replace(REQUEST, **changed))


def test_the_current_activation_of_a_started_run_gets_the_credential() -> None:
    digest = hashlib.sha256(KEY).hexdigest()
    assert ALLOWED.decide() == CredentialReleased(
        run=RUN, activation="a1", epoch=1, purpose="graph", transit_key=digest
    )


DENIALS = {
    "no-such-tenant": [replace(ALLOWED, tenant=None)],
    "tenant-not-active": [
        replace(ALLOWED, tenant=folds.tenant([REGISTERED, end]))
        for end in (TenantSuspended(reason="asked"), TenantOffboarded(reason="left"))
    ],
    "no-such-run": [replace(ALLOWED, run=None)],
    "run-of-another-tenant": [
        replace(ALLOWED, run=folds.run([msgspec.structs.replace(REQUESTED, tenant=FABRIKAM), STARTED]))
    ],
    "run-not-started": [
        replace(ALLOWED, run=folds.run([REQUESTED])),
        *(
            replace(ALLOWED, run=folds.run([REQUESTED, STARTED, end]))
            for end in (
                RunFinished(outcomes=()),
                RunFailed(reason="r", detail="d", outcomes=()),
                RunCancelled(reason="asked"),
            )
        ),
    ],
    "stale-epoch": [
        asking(epoch=0),
        asking(epoch=2),
        replace(ALLOWED, run=folds.run([REQUESTED, STARTED, RunResumed(activation="a2", epoch=2)])),
    ],
    "another-activation": [asking(activation="a2"), asking(activation="")],
    "purpose-not-in-slot": [asking(purpose="exchange-server"), asking(purpose="mail"), asking(slot=EXCHANGE_SERVER)],
    "purpose-not-in-run": [
        replace(ALLOWED, run=folds.run([msgspec.structs.replace(REQUESTED, datasets=only), STARTED]))
        for only in ((), (Dataset("exchange.mailboxes"),), (Dataset("onprem.mailboxes"),))
    ],
    "no-credential": [replace(ALLOWED, credential=None)],
    "credential-revoked": [replace(ALLOWED, credential=folds.credential([SEALED, CredentialRevoked(reason="x")]))],
    "credential-rejected": [replace(ALLOWED, credential=folds.credential([SEALED, rejected(permanent=True)]))],
    "credential-in-use": [replace(ALLOWED, holders=(OTHER_RUN,))],
    "too-many-releases": [
        replace(ALLOWED, credential=folds.credential([SEALED, *[RELEASED] * RELEASES_PER_ACTIVATION]))
    ],
}


@pytest.mark.parametrize(("why", "case"), [(why, case) for why, cases in DENIALS.items() for case in cases])
def test_every_broken_rule_denies_the_release_with_its_word(why: str, case: Case) -> None:
    assert case.decide() == ReleaseDenied(run=case.request.run, activation=case.request.activation, why=why)
    assert why in REASONS


ALLOWANCES = {
    "a rejection that passes": folds.credential([SEALED, rejected(permanent=False)]),
    "a new credential after a rejection": folds.credential(
        [
            SEALED,
            rejected(permanent=True),
            CredentialRotated(kind="app-secret", identity="app", vault_key="k1", digest="d2"),
        ]
    ),
    "a new credential after a revocation": folds.credential([SEALED, CredentialRevoked(reason="x"), SEALED]),
    "the eighth release": folds.credential([SEALED, *[RELEASED] * (RELEASES_PER_ACTIVATION - 1)]),
    "releases to former activations": folds.credential(
        [SEALED, *[msgspec.structs.replace(RELEASED, activation="a0")] * RELEASES_PER_ACTIVATION]
    ),
}


@pytest.mark.parametrize("what", ALLOWANCES)
def test_what_does_not_stand_in_the_way_of_a_release(what: str) -> None:
    assert isinstance(replace(ALLOWED, credential=ALLOWANCES[what]).decide(), CredentialReleased)


def test_a_policy_of_one_service_keeps_the_credential_from_no_other() -> None:
    blocked = CredentialRejected(code=53003, category="policy", permanent=True, run=RUN, resource="exchange")
    case = replace(ALLOWED, credential=folds.credential([SEALED, blocked]))
    assert isinstance(case.decide(), CredentialReleased)
    exchange = replace(case, request=msgspec.structs.replace(REQUEST, purpose="exchange"))
    assert exchange.decide() == ReleaseDenied(run=RUN, activation="a1", why="credential-rejected")


def test_a_run_is_in_nobody_s_way_when_it_has_ended_or_is_the_one_that_asks() -> None:
    ended = runs.evolve(OTHER_RUN, RunFinished(outcomes=()))
    assert ALLOWED.run is not None
    assert isinstance(replace(ALLOWED, holders=(ended, ALLOWED.run)).decide(), CredentialReleased)


@pytest.mark.parametrize(
    ("dataset", "purposes"),
    [
        ("entra.users", {"graph"}),
        ("audit.sign-ins", {"graph"}),
        ("reports.active-users", {"graph"}),
        ("exchange.mailboxes", {"exchange"}),
        ("onprem.mailboxes", {"exchange-server"}),
        ("ours.devices", {"graph", "exchange"}),
    ],
)
def test_a_dataset_says_what_must_be_signed_in_to(dataset: str, purposes: set[str]) -> None:
    assert workloads_of(Dataset(dataset)) == purposes


def test_the_account_of_an_exchange_server_is_released_for_its_own_datasets_only() -> None:
    onprem = folds.run([msgspec.structs.replace(REQUESTED, datasets=(Dataset("onprem.mailboxes"),)), STARTED])
    assert isinstance(
        replace(asking(slot=EXCHANGE_SERVER, purpose="exchange-server"), run=onprem).decide(), CredentialReleased
    )
    assert isinstance(asking(slot=EXCHANGE_SERVER, purpose="exchange-server").decide(), ReleaseDenied)


@given(
    run=st.sampled_from([None, *(case.run for cases in DENIALS.values() for case in cases), ALLOWED.run]),
    tenant=st.sampled_from([ALLOWED.tenant, *(case.tenant for cases in DENIALS.values() for case in cases)]),
    credential=st.sampled_from(
        [ALLOWED.credential, *(case.credential for cases in DENIALS.values() for case in cases)]
    ),
    slot=st.sampled_from([ENTRA, EXCHANGE_SERVER]),
    activation=st.sampled_from(["a1", "a2"]),
    epoch=st.integers(0, 3),
    purpose=st.sampled_from(["graph", "exchange", "exchange-server", "mail"]),
)
def test_a_release_implies_every_condition_whatever_is_combined(
    *,
    run: Run | None,
    tenant: Tenant | None,
    credential: Credential | None,
    slot: Slot,
    activation: str,
    epoch: int,
    purpose: str,
) -> None:
    request = msgspec.structs.replace(REQUEST, slot=slot, activation=activation, epoch=epoch, purpose=purpose)
    decided = decide_release(run=run, tenant=tenant, credential=credential, request=request)
    if isinstance(decided, ReleaseDenied):
        assert decided.why in REASONS
        return
    assert run is not None
    assert (run.tenant, run.state, run.activation, run.epoch) == (CONTOSO, "started", activation, epoch)
    assert tenant is not None
    assert tenant.state == "active"
    assert credential is not None
    assert credential.state != "revoked"
    assert not any(one.resource == purpose or one.category in FOR_ALL for one in credential.refusals)
    assert purpose in PURPOSES[slot]
    assert any(purpose in workloads_of(dataset) for dataset in run.datasets)


# data keys

WITH_KEY = folds.tenant([REGISTERED, DataKeyCreated(key="k1")])
FOR_RUN = DataKeyRequest(tenant=CONTOSO, run=RUN, activation="a1", epoch=1)
FOR_OPERATOR = DataKeyRequest(tenant=CONTOSO, operator="alice", why="ticket 7")


def test_a_data_key_goes_to_the_activation_of_a_run() -> None:
    event = decide_data_key_release(run=ALLOWED.run, tenant=WITH_KEY, request=FOR_RUN)
    assert event == DataKeyReleased(key="k1", run=RUN, operator=None, why="")


def test_a_data_key_goes_to_an_operator_with_a_reason_even_of_a_suspended_tenant() -> None:
    suspended = folds.tenant([REGISTERED, DataKeyCreated(key="k1"), TenantSuspended(reason="asked")])
    event = decide_data_key_release(run=None, tenant=suspended, request=FOR_OPERATOR)
    assert event == DataKeyReleased(key="k1", run=None, operator="alice", why="ticket 7")


REFUSED_DATA_KEYS = {
    "nobody asks": (WITH_KEY, DataKeyRequest(tenant=CONTOSO), "no-receiver"),
    "no reason": (WITH_KEY, msgspec.structs.replace(FOR_OPERATOR, why=" "), "no-receiver"),
    "no name": (WITH_KEY, msgspec.structs.replace(FOR_OPERATOR, operator=" "), "no-receiver"),
    "both": (WITH_KEY, msgspec.structs.replace(FOR_RUN, operator="alice", why="x"), "no-receiver"),
    "no tenant": (None, FOR_OPERATOR, "no-such-tenant"),
    "no tenant of the run": (None, FOR_RUN, "no-such-tenant"),
    "no key": (ALLOWED.tenant, FOR_OPERATOR, "no-data-key"),
    "no key for the run": (ALLOWED.tenant, FOR_RUN, "no-data-key"),
    "offboarded": (
        folds.tenant([REGISTERED, DataKeyCreated(key="k1"), TenantOffboarded(reason="x")]),
        FOR_OPERATOR,
        "tenant-not-active",
    ),
    "stale": (WITH_KEY, msgspec.structs.replace(FOR_RUN, epoch=2), "stale-epoch"),
    "another activation": (WITH_KEY, msgspec.structs.replace(FOR_RUN, activation="a2"), "another-activation"),
}


@pytest.mark.parametrize("what", REFUSED_DATA_KEYS)
def test_every_broken_rule_keeps_the_data_key(what: str) -> None:
    tenant, request, why = REFUSED_DATA_KEYS[what]
    assert decide_data_key_release(run=ALLOWED.run, tenant=tenant, request=request) == DataKeyDenied(
        run=request.run, activation=request.activation, operator=request.operator, why=why
    )
    assert why in REASONS


@pytest.mark.parametrize("why", ["no-credential", "credential-revoked"])
def test_a_credential_that_is_not_there_is_refused_with_what_to_do(why: str) -> None:
    assert "`tenantry credential set`" in REASONS[why]
