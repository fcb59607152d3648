"""A credential under any sequence of envelopes, releases and refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import folds
from history import History
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import credential as credentials
from domain.credential import REMEMBERED_ACTIVATIONS, Credential
from domain.events import (
    CredentialEvent,
    CredentialExpiring,
    CredentialRejected,
    CredentialReleased,
    CredentialResealed,
    CredentialRotated,
    CredentialSealed,
    CredentialVerified,
    ReleaseDenied,
)
from domain.ids import ENTRA, RunId, TenantId

CONTOSO = TenantId("11111111-2222-3333-4444-555555555555")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
RUNS = [RunId(f"20261122T203000-0000000{n}") for n in range(3)]
runs = st.sampled_from(RUNS)
resources = st.sampled_from(["graph", "exchange"])
digests = st.sampled_from(["d1", "d2", "d3"])


def sealed(digest: str, expires: datetime | None = None) -> CredentialSealed:
    return CredentialSealed(
        tenant=CONTOSO, slot=ENTRA, kind="app-secret", identity="app", vault_key="k1", digest=digest, expires=expires
    )


def released(run: RunId, activation: str = "a1") -> CredentialReleased:
    return CredentialReleased(run=run, activation=activation, epoch=1, purpose="graph", transit_key="t")


def refused(
    run: RunId | None, *, permanent: bool = True, category: str = "policy", resource: str = "graph"
) -> CredentialRejected:
    return CredentialRejected(code=7000215, category=category, permanent=permanent, run=run, resource=resource)


class Use(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.history: History[Credential | None, CredentialEvent] = History(credentials.evolve, None)
        self.holders: dict[RunId, int] = {}
        """Number of the envelope that a run had last."""
        self.envelopes = 0
        self.revoked = False
        self.refused: dict[str, CredentialRejected] = {}
        """By service, in the order in which they came."""

    @property
    def credential(self) -> Credential:
        assert self.history.state is not None
        return self.history.state

    def holds_a_former_one(self, run: RunId | None) -> bool:
        return run is not None and self.holders.get(run, self.envelopes) != self.envelopes

    @initialize()
    def deny_before_anything_is_sealed(self) -> None:
        self.history.take([ReleaseDenied(run=RUNS[0], activation="a1", why="no-credential")])
        assert self.history.state is None
        self.seal("d1")

    @rule(digest=digests)
    def seal(self, digest: str) -> None:
        former = self.history.state
        events = self.history.take(credentials.seal(former, sealed(digest)))
        if former is not None and not self.revoked and former.digest == digest:
            assert events == []
            return
        assert isinstance(events[0], CredentialSealed if former is None or self.revoked else CredentialRotated)
        self.envelopes += 1
        self.revoked, self.refused = False, {}
        assert self.credential.state == "sealed"

    @rule(run=runs, activation=st.sampled_from("abcdefghijkl"))
    def release(self, run: RunId, activation: str) -> None:
        before = {(r, a): n for r, a, n in self.credential.releases}
        self.history.take([released(run, activation)])
        assert self.credential.releases[-1] == (run, activation, before.get((run, activation), 0) + 1)
        self.holders[run] = self.envelopes

    @rule(run=st.none() | runs, resource=resources)
    def verify(self, run: RunId | None, resource: str) -> None:
        left = {name: event for name, event in self.refused.items() if name != resource and event.category == "policy"}
        changes = left != self.refused or (not left and self.credential.state != "verified")
        quiet = self.revoked or self.holds_a_former_one(run) or not changes
        assert len(self.history.take(credentials.verified(self.credential, run, resource))) == (not quiet)
        if not quiet:
            self.refused = left

    @rule(
        run=st.none() | runs,
        permanent=st.booleans(),
        category=st.sampled_from(["policy", "permanent-credential"]),
        resource=resources,
    )
    def refuse(self, run: RunId | None, permanent: bool, category: str, resource: str) -> None:
        event = refused(run, permanent=permanent, category=category, resource=resource)
        events = self.history.take(credentials.rejected(self.credential, event))
        assert events == ([] if self.revoked or self.holds_a_former_one(run) else [event])
        if events and permanent:
            self.refused.pop(resource, None)
            self.refused[resource] = event

    @rule()
    def revoke(self) -> None:
        assert len(self.history.take(credentials.revoke(self.credential, "asked"))) == (not self.revoked)
        self.revoked = True

    @rule(key=st.sampled_from(["k1", "k2"]))
    def reseal(self, key: str) -> None:
        before = self.credential
        self.history.take([CredentialResealed(vault_key=key, digest=f"{before.digest} to {key}")])
        after = self.credential
        assert (after.vault_key, after.digest) == (key, f"{before.digest} to {key}")
        assert (after.state, after.releases, after.outdated) == (before.state, before.releases, before.outdated)

    @precondition(lambda self: not self.revoked)
    @invariant()
    def a_refusal_stands_until_it_is_answered(self) -> None:
        if self.history.state is not None:
            assert (self.credential.state == "rejected") == bool(self.refused)
            assert self.credential.refusals == tuple(self.refused.values())

    @invariant()
    def a_revoked_credential_stays_so_until_it_is_set_anew(self) -> None:
        assert self.history.state is None or (self.credential.state == "revoked") == self.revoked

    @invariant()
    def what_is_remembered_is_bounded(self) -> None:
        if self.history.state is not None:
            assert len(self.credential.releases) <= REMEMBERED_ACTIVATIONS
            assert len(self.credential.outdated) <= REMEMBERED_ACTIVATIONS

    def teardown(self) -> None:
        self.history.check()


TestTheUseOfACredential = Use.TestCase
TestTheUseOfACredential.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_refusal_of_a_former_secret_does_not_strike_the_new_one() -> None:
    history: History[Credential | None, CredentialEvent] = History(credentials.evolve, None)
    history.take([sealed("d1"), released(RUNS[0])])
    history.take(credentials.seal(history.state, sealed("d2")))
    assert history.state is not None
    assert credentials.rejected(history.state, refused(RUNS[0])) == []
    assert credentials.rejected(history.state, refused(RUNS[1])) != []


def test_what_one_service_takes_does_not_answer_for_another_that_refuses_by_its_own_policy() -> None:
    blocked = refused(None, resource="exchange")
    state = folds.credential([sealed("d1"), blocked])
    assert state is not None
    assert credentials.verified(state, None, "graph") == []
    assert credentials.hindrance(state, NOON, "graph") is None
    assert credentials.hindrance(state, NOON, "exchange") == blocked


def test_a_wrong_password_keeps_it_from_every_service_until_one_takes_it() -> None:
    wrong = refused(None, category="permanent-credential", resource="exchange")
    state = folds.credential([sealed("d1"), wrong])
    assert state is not None
    assert credentials.hindrance(state, NOON, "graph") == wrong
    state = credentials.evolve(state, CredentialVerified(run=None, resource="graph"))
    assert state is not None
    assert (state.state, credentials.hindrance(state, NOON, "exchange")) == ("verified", None)


def test_an_account_that_signs_in_again_is_no_longer_listed_as_locked() -> None:
    locked = CredentialRejected(code=50053, category="locked", permanent=False, run=None, resource="graph", until=NOON)
    state = folds.credential([sealed("d1"), CredentialVerified(run=None, resource="graph"), locked])
    assert state is not None
    (verified,) = credentials.verified(state, None, "graph")
    after = credentials.evolve(state, verified)
    assert after is not None
    assert after.lockout is None


@given(left=st.timedeltas(timedelta(days=-999), timedelta(days=999)), ahead=st.timedeltas(timedelta(0)))
def test_an_expiry_is_forecast_when_it_is_near(left: timedelta, ahead: timedelta) -> None:
    state = folds.credential([sealed("d1", NOON + left)])
    assert state is not None
    forecast = credentials.forecast(state, NOON, ahead)
    assert forecast == ([CredentialExpiring(expires=NOON + left)] if left <= ahead else [])


def test_no_expiry_is_forecast_for_what_never_expires() -> None:
    state = folds.credential([sealed("d1")])
    assert state is not None
    assert credentials.forecast(state, NOON, timedelta.max) == []
