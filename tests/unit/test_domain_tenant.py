"""A tenant under any sequence of commands: registered once, suspended and resumed, and nothing after offboarding."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from history import History
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from domain import tenant as tenants
from domain.errors import AlreadyExists, NotAllowed, Unknown
from domain.events import (
    DataKeyCreated,
    DataKeyDenied,
    DataKeyDestroyed,
    PlanChanged,
    TenantChanged,
    TenantEvent,
    TenantOffboarded,
    TenantRegistered,
    TenantResumed,
    TenantSuspended,
)
from domain.ids import Dataset, TenantId
from domain.tenant import Tenant
from vault.policy import DataKeyRequest, decide_data_key_release

CONTOSO = TenantId("11111111-2222-3333-4444-555555555555")
REGISTERED = TenantRegistered(tenant=CONTOSO, name="Contoso", domain="contoso.com", cloud="public")
DATASETS = [(), (Dataset("entra.users"),), (Dataset("entra.users"), Dataset("entra.groups"))]


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.history: History[Tenant | None, TenantEvent] = History(tenants.evolve, None)
        self.history.take(tenants.register(None, REGISTERED))
        self.final: int | None = None
        self.key_names = 0

    @property
    def tenant(self) -> Tenant:
        return tenants.known(self.history.state, CONTOSO)

    def decide(self, decision: Callable[[Tenant], list[TenantEvent]]) -> list[TenantEvent]:
        """What was decided; nothing may be once the tenant is offboarded."""
        if self.final is None:
            return list(self.history.take(decision(self.tenant)))
        with pytest.raises(NotAllowed, match="offboarded"):
            decision(self.tenant)
        return []

    @rule(name=st.sampled_from(["Contoso", "Contoso Ltd"]))
    def register_again(self, name: str) -> None:
        """Which goes on where it was interrupted before there was a data key."""
        again = msgspec.structs.replace(REGISTERED, name=name)
        if self.tenant.name == name and self.tenant.data_key is None and self.final is None:
            assert tenants.register(self.tenant, again) == []
            return
        with pytest.raises(AlreadyExists):
            tenants.register(self.tenant, again)

    @rule(name=st.sampled_from(["Contoso", "Contoso Ltd"]))
    def change(self, name: str) -> None:
        before = self.tenant.name
        wanted = TenantChanged(name=name, domain="contoso.com", cloud="public")
        assert len(self.decide(lambda state: tenants.change(state, wanted))) == (self.final is None and name != before)

    @rule(datasets=st.sampled_from(DATASETS), cadence=st.integers(60, 10**6))
    def plan(self, datasets: tuple[Dataset, ...], cadence: int) -> None:
        for event in self.decide(lambda state: tenants.plan(state, datasets, cadence)):
            assert event == PlanChanged(datasets=datasets, cadence_seconds=cadence)
            assert (self.tenant.datasets, self.tenant.cadence_seconds) == (datasets, cadence)

    @rule(cadence=st.integers(max_value=59) | st.integers(min_value=10**9))
    def plan_out_of_range(self, cadence: int) -> None:
        with pytest.raises(NotAllowed):
            tenants.plan(self.tenant, (), cadence)

    @rule()
    def suspend(self) -> None:
        active = self.tenant.state == "active"
        events = self.decide(lambda state: tenants.suspend(state, "asked"))
        assert events == ([TenantSuspended(reason="asked")] if active else [])

    @rule()
    def resume(self) -> None:
        suspended = self.tenant.state == "suspended"
        assert self.decide(tenants.resume) == ([TenantResumed()] if suspended else [])

    @rule()
    def create_data_key(self) -> None:
        self.key_names += 1
        wanted, had = f"key {self.key_names}", self.tenant.data_key
        events = self.decide(lambda state: tenants.create_data_key(state, wanted))
        assert events == ([DataKeyCreated(key=wanted)] if self.final is None and had is None else [])

    @rule()
    def release_data_key(self) -> None:
        before = self.tenant
        request = DataKeyRequest(tenant=CONTOSO, operator="ann", why="asked")
        decision = decide_data_key_release(run=None, tenant=before, request=request)
        assert isinstance(decision, DataKeyDenied) == (before.data_key is None)
        self.history.take([decision])
        assert self.tenant == before

    @rule()
    def offboard(self) -> None:
        key = self.tenant.data_key
        events = self.decide(lambda state: tenants.offboard(state, "left"))
        if self.final is None:
            destroyed = [] if key is None else [DataKeyDestroyed(key=key)]
            assert events == [*destroyed, TenantOffboarded(reason="left")]
            self.final = len(self.history.events)

    @invariant()
    def nothing_happens_to_an_offboarded_tenant(self) -> None:
        assert (self.tenant.state == "offboarded") == (self.final is not None)
        if self.final is not None:
            assert all(isinstance(event, DataKeyDenied) for event in self.history.events[self.final :])
            assert self.tenant.data_key is None

    @invariant()
    def only_an_active_tenant_is_collected(self) -> None:
        if self.tenant.state == "active":
            tenants.may_run(self.tenant)
        else:
            with pytest.raises(NotAllowed):
                tenants.may_run(self.tenant)

    @invariant()
    def its_data_key_is_made_once(self) -> None:
        assert sum(isinstance(event, DataKeyCreated) for event in self.history.events) <= 1

    def teardown(self) -> None:
        self.history.check()


TestTheLifeOfATenant = Life.TestCase
TestTheLifeOfATenant.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_tenant_that_was_never_registered_is_unknown() -> None:
    with pytest.raises(Unknown):
        tenants.known(None, CONTOSO)
