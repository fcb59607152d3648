"""The whole system running for one pytest session: Ray, every actor, the simulator, and an estate of tenants."""

from __future__ import annotations

import os
import secrets
import select
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import folds
from estate import Estate
from truth import batches_of, collected, counted, differences

from actors.plan import datasets_for
from actors.system import System
from collectors.catalog import load_catalog
from crypto.datakey import DataKey, from_secret
from crypto.transit import TransitKey
from domain.events import AnyEvent, Recorded, RunRequested
from domain.ids import RunId, TenantId, new_run_id, run_stream, tenant_id
from domain.run import Run
from eventstore.batches import open_batch_store
from eventstore.follower import Follower
from simulator.world import Tenant
from vault.client import owner_process
from vault.messages import ReleaseDataKey, data_key_context

LONGEST_SECONDS = 60.0
TICK_SECONDS = 0.05


@dataclass
class Running:
    """`system` is told to work; what it does is read from the event store."""

    estate: Estate
    system: System

    def request(self, tenants: Iterable[Tenant], names: Sequence[str] = (), *, full: bool = False) -> list[RunId]:
        catalog = load_catalog(self.estate.settings.catalog)
        requested = []
        for one in tenants:
            tenant = self.estate.state.tenant(one.id)
            run = new_run_id(datetime.now(UTC), secrets.randbits(32))
            event = RunRequested(run=run, tenant=tenant.id, datasets=datasets_for(tenant, catalog, names), full=full)
            self.append(run, event)
            requested.append(run)
        return requested

    def append(self, run: RunId, event: AnyEvent) -> None:
        stream, store = run_stream(run), self.estate.state.store
        store.append(stream, len(store.read(stream)), [event], at=datetime.now(UTC), actor="operator:test", cause=run)

    def carry_out(self, requested: Sequence[RunId]) -> list[Run]:
        self.system.work(until_idle=True)
        self.finish()
        return [self.run(run) for run in requested]

    def collect(self, *tenants: Tenant, names: Sequence[str] = (), full: bool = False) -> list[Run]:
        return self.carry_out(self.request(tenants, names, full=full))

    def finish(self) -> None:
        for _ in range(int(LONGEST_SECONDS / TICK_SECONDS)):
            if self.system.ended(TICK_SECONDS):
                return
        raise AssertionError(f"the work did not end within {LONGEST_SECONDS:.0f} s")

    def until(
        self, seen: Callable[[Recorded], bool], after: int, ended: Callable[[float], bool] | None = None
    ) -> Recorded:
        """Returns at the first event past position `after` that `seen` says yes to. `ended` waits for the work."""
        ended = ended or self.system.ended
        follower = Follower(self.estate.state.store, after)
        for _ in range(int(LONGEST_SECONDS / TICK_SECONDS)):
            for recorded in follower.poll():
                if seen(recorded):
                    return recorded
            if ended(TICK_SECONDS):
                raise AssertionError("the work ended before that event")
        raise AssertionError(f"there was no such event within {LONGEST_SECONDS:.0f} s")

    def pids(self) -> dict[str, int]:
        """Of every process of ours: the actors, and the keyholder if it is there."""
        keyholder = owner_process(self.estate.settings)
        return self.system.pids() | ({"keyholder": keyholder} if keyholder else {})

    def run(self, run: RunId) -> Run:
        state = folds.run(recorded.event for recorded in self.estate.state.store.read(run_stream(run)))  # type: ignore[misc]
        assert state is not None
        return state

    def position(self) -> int:
        return self.estate.state.store.last_position()

    def data_key(self, tenant: Tenant) -> DataKey:
        transit, who = TransitKey.generate(), "operator:test"
        request = ReleaseDataKey(
            tenant=tenant_id(tenant.id), transit_key=transit.public, operator=who, why="compare with the truth"
        )
        sealed = self.estate.state.keyholder.release_data_key(request)
        with transit.open(sealed, data_key_context(tenant.id, who)) as secret:
            return from_secret(secret)

    def differences(self, tenant: Tenant, run: Run) -> list[str]:
        """What is wrong with an ended run: nothing, when each dataset is complete, counted once and what there is."""
        store, batches = self.estate.state.store, open_batch_store(self.estate.settings.batches)
        key, said = self.data_key(tenant), []
        for outcome in run.outcomes:
            name = outcome.dataset
            events = batches_of(store, TenantId(tenant.id), name)
            rows = collected(store, batches, TenantId(tenant.id), name, key)
            in_batches, at_end = counted(events)
            if outcome.outcome != "complete":
                said.append(f"{name} is {outcome.outcome}: {outcome.reason} {outcome.detail}")
            if not in_batches == at_end == outcome.rows:
                said.append(f"{name}: {in_batches} rows in batches, {at_end} at the end, {outcome.rows} in the run")
            said += [f"{name} {one}" for one in differences(tenant, name, rows, events)]
        return said if run.state == "finished" else [f"the run is {run.state}: {run.reason} {run.detail}", *said]


def killed(pid: int) -> None:
    """SIGKILL; returns when the process has ended: its pidfd becomes readable."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        assert select.select([handle], [], [], 10)[0], "the process did not end"
    finally:
        os.close(handle)
