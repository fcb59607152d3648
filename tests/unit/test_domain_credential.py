"""A credential under any sequence of envelopes, releases and refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
    ReleaseDenied,
)
from domain.ids import ENTRA, RunId, TenantId

CONTOSO = TenantId("11111111-2222-3333-4444-555555555555")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
RUNS = [RunId(f"20261122T203000-0000000{n}") for n in range(3)]
runs = st.sampled_from(RUNS)
digests = st.sampled_from(["d1", "d2", "d3"])


def sealed(digest: str, expires: datetime | None = None) -> CredentialSealed:
    return CredentialSealed(
        tenant=CONTOSO, slot=ENTRA, kind="app-secret", identity="app", vault_key="k1", digest=digest, expires=expires
    )


def released(run: RunId, activation: str = "a1") -> CredentialReleased:
    return CredentialReleased(run=run, activation=activation, epoch=1, purpose="graph", transit_key="t")


def refused(run: RunId | None, *, permanent: bool = True) -> CredentialRejected:
    return CredentialRejected(code=7000215, category="c", permanent=permanent, run=run, resource="graph")


class Use(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.history: History[Credential | None, CredentialEvent] = History(credentials.evolve, None)
        self.holders: dict[RunId, int] = {}
        """Number of the envelope that a run had last."""
        self.envelopes = 0
        self.revoked = False
        self.refused: CredentialRejected | None = None

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
        self.revoked, self.refused = False, None
        assert self.credential.state == "sealed"

    @rule(run=runs, activation=st.sampled_from("abcdefghijkl"))
    def release(self, run: RunId, activation: str) -> None:
        before = {(r, a): n for r, a, n in self.credential.releases}
        self.history.take([released(run, activation)])
        assert self.credential.releases[-1] == (run, activation, before.get((run, activation), 0) + 1)
        self.holders[run] = self.envelopes

    @rule(run=st.none() | runs)
    def verify(self, run: RunId | None) -> None:
        quiet = self.credential.state in ("verified", "revoked") or self.holds_a_former_one(run)
        assert len(self.history.take(credentials.verified(self.credential, run, "graph"))) == (not quiet)
        if not quiet:
            self.refused = None

    @rule(run=st.none() | runs, permanent=st.booleans())
    def refuse(self, run: RunId | None, permanent: bool) -> None:
        event = refused(run, permanent=permanent)
        events = self.history.take(credentials.rejected(self.credential, event))
        assert events == ([] if self.revoked or self.holds_a_former_one(run) else [event])
        if events and permanent:
            self.refused = event

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
        assert self.history.state is None or (self.credential.state == "rejected") == (self.refused is not None)

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


@given(left=st.timedeltas(timedelta(days=-999), timedelta(days=999)), ahead=st.timedeltas(timedelta(0)))
def test_an_expiry_is_forecast_when_it_is_near(left: timedelta, ahead: timedelta) -> None:
    state = credentials.fold([sealed("d1", NOON + left)])
    assert state is not None
    forecast = credentials.forecast(state, NOON, ahead)
    assert forecast == ([CredentialExpiring(expires=NOON + left)] if left <= ahead else [])


def test_no_expiry_is_forecast_for_what_never_expires() -> None:
    state = credentials.fold([sealed("d1")])
    assert state is not None
    assert credentials.forecast(state, NOON, timedelta.max) == []
