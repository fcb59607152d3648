"""Run, tenant and credential together, under any sequence of commands: when a release is granted."""

from __future__ import annotations

import os

import pytest
from history import History
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import credential as credentials
from domain import run as runs
from domain import tenant as tenants
from domain.credential import Credential
from domain.events import (
    CredentialEvent,
    CredentialRejected,
    CredentialReleased,
    CredentialSealed,
    DataKeyReleased,
    DatasetOutcome,
    RunEvent,
    RunRequested,
    TenantEvent,
    TenantRegistered,
)
from domain.ids import ENTRA, EXCHANGE_SERVER, SLOTS, Dataset, RunId, Slot, TenantId
from domain.run import ENDED, Run
from domain.tenant import Tenant
from vault.policy import (
    RELEASES_PER_ACTIVATION,
    DataKeyRequest,
    ReleaseRequest,
    decide_data_key_release,
    decide_release,
)

CONTOSO = TenantId("11111111-2222-3333-4444-555555555555")
USERS = Dataset("entra.users")
RUN = RunId("20261122T203000-0a1b2c3d")
epochs = st.integers(0, 4)
activations = st.integers(0, 4).map("activation-{}".format)


class Releases(RuleBasedStateMachine):
    """One tenant, one run and one credential; requests come from anybody."""

    def __init__(self) -> None:
        super().__init__()
        self.tenant: History[Tenant | None, TenantEvent] = History(tenants.evolve, None)
        self.run: History[Run | None, RunEvent] = History(runs.evolve, None)
        self.credential: History[Credential | None, CredentialEvent] = History(credentials.evolve, None)
        self.granted: dict[str, int] = {}

    @initialize()
    def set_the_scene(self) -> None:
        registered = TenantRegistered(tenant=CONTOSO, name="Contoso", domain="contoso.com", cloud="public")
        self.tenant.take(tenants.register(None, registered))
        self.tenant.take(tenants.create_data_key(self.known_tenant, "key"))

    @property
    def known_tenant(self) -> Tenant:
        assert self.tenant.state is not None
        return self.tenant.state

    @precondition(lambda self: self.known_tenant.state != "offboarded")
    @rule(what=st.sampled_from([tenants.resume, lambda state: tenants.suspend(state, "asked")]))
    def suspend_or_resume(self, what: object) -> None:
        assert callable(what)
        self.tenant.take(what(self.known_tenant))

    @precondition(lambda self: self.known_tenant.state == "suspended")
    @rule()
    def offboard(self) -> None:
        self.tenant.take(tenants.offboard(self.known_tenant, "left"))

    @precondition(lambda self: self.run.state is None)
    @rule()
    def request_run(self) -> None:
        self.run.take(runs.request(None, RunRequested(run=RUN, tenant=CONTOSO, datasets=(USERS,))))

    @precondition(lambda self: self.run.state is not None and self.run.state.state not in ENDED)
    @rule(activation=activations)
    def activate(self, activation: str) -> None:
        assert self.run.state is not None
        self.run.take(runs.activate(self.run.state, activation))

    @precondition(lambda self: self.run.state is not None and self.run.state.epoch > 1)
    @rule(finished=st.booleans())
    def end(self, finished: bool) -> None:
        state = self.run.state
        assert state is not None
        done = (DatasetOutcome(dataset=USERS, outcome="complete"),)
        if state.state == "started":
            self.run.take(runs.finish(state, state.epoch, done) if finished else runs.cancel(state, "asked"))

    @rule(digest=st.sampled_from(["d1", "d2"]))
    def seal(self, digest: str) -> None:
        event = CredentialSealed(
            tenant=CONTOSO, slot=ENTRA, kind="app-secret", identity="app", vault_key="k", digest=digest
        )
        if self.credential.take(credentials.seal(self.credential.state, event)):
            self.granted.clear()

    @precondition(lambda self: self.credential.state is not None)
    @rule(revoked=st.booleans())
    def spoil(self, revoked: bool) -> None:
        state = self.credential.state
        assert state is not None
        refusal = CredentialRejected(code=50126, category="c", permanent=True, run=None, resource="graph")
        self.credential.take(credentials.revoke(state, "asked") if revoked else credentials.rejected(state, refusal))

    @rule(
        activation=activations,
        epoch=epochs,
        slot=st.sampled_from(SLOTS),
        purpose=st.sampled_from(["graph", "exchange", "exchange-server"]),
        right=st.booleans(),
    )
    def ask(self, activation: str, epoch: int, slot: Slot, purpose: str, right: bool) -> None:
        """`right`: as the holder of the run would ask."""
        if right and self.run.state is not None:
            activation, epoch, slot, purpose = self.run.state.activation, self.run.state.epoch, ENTRA, "graph"
        request = ReleaseRequest(
            run=RUN,
            tenant=CONTOSO,
            slot=slot,
            activation=activation,
            epoch=epoch,
            purpose=purpose,
            transit_key=os.urandom(32),
        )
        credential = self.credential.state if slot == ENTRA else None
        decision = decide_release(run=self.run.state, tenant=self.tenant.state, credential=credential, request=request)
        allowed = (
            self.may_act(activation, epoch)
            and (slot, purpose) == (ENTRA, "graph")
            and credential is not None
            and credential.state in ("sealed", "verified")
            and self.granted.get(activation, 0) < RELEASES_PER_ACTIVATION
        )
        assert isinstance(decision, CredentialReleased) == allowed
        before = self.credential.state
        self.credential.take([decision])
        if allowed:
            self.granted[activation] = self.granted.get(activation, 0) + 1
        else:
            assert self.credential.state == before

    @rule(activation=activations, epoch=epochs)
    def ask_for_the_data_key(self, activation: str, epoch: int) -> None:
        request = DataKeyRequest(tenant=CONTOSO, run=RUN, activation=activation, epoch=epoch)
        before = self.tenant.state
        decision = decide_data_key_release(run=self.run.state, tenant=before, request=request)
        assert isinstance(decision, DataKeyReleased) == self.may_act(activation, epoch)
        self.tenant.take([decision])
        assert self.tenant.state == before

    def may_act(self, activation: str, epoch: int) -> bool:
        run = self.run.state
        return (
            run is not None
            and run.state == "started"
            and (run.activation, run.epoch) == (activation, epoch)
            and self.known_tenant.state == "active"
        )

    @invariant()
    def no_release_without_a_started_run(self) -> None:
        if any(isinstance(event, CredentialReleased) for event in self.credential.events):
            assert self.run.state is not None
            assert self.run.state.epoch >= 1

    def teardown(self) -> None:
        for history in (self.tenant, self.run, self.credential):
            history.check()  # type: ignore[attr-defined]


TestAnySequenceOfRequests = Releases.TestCase
TestAnySequenceOfRequests.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_the_holder_of_a_started_run_gets_what_its_datasets_need() -> None:
    machine = Releases()
    machine.set_the_scene()
    machine.request_run()
    machine.activate("activation-1")
    machine.seal("d1")
    machine.ask("", 0, EXCHANGE_SERVER, "", True)
    assert machine.granted == {"activation-1": 1}


@pytest.mark.parametrize("finished", [True, False])
def test_the_holder_of_a_run_that_has_ended_gets_nothing(finished: bool) -> None:
    machine = Releases()
    machine.set_the_scene()
    machine.request_run()
    machine.activate("activation-1")
    machine.seal("d1")
    machine.end(finished)
    machine.ask("", 0, EXCHANGE_SERVER, "", True)
    assert machine.granted == {}
