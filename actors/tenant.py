"""The tenant actor's core: carries out one run of one tenant, all its datasets in parallel, and forgets the tenant."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from actors.activation import Activation, OpenTokens, activate, known_run
from actors.collection import DatasetCollection, refusal_words
from actors.messages import Collector, Vault
from actors.patience import Wait
from collectors.dataset import Dataset as Definition
from collectors.signin import Resource, SignIn
from domain import run as runs
from domain import tenant as tenants
from domain.errors import (
    ActivationLost,
    ConnectionLost,
    EnvelopeRejected,
    KeyholderUnavailable,
    NotAllowed,
    ReleaseRefused,
    ServiceUnavailable,
    SignInFailed,
    TenantryError,
    Throttled,
    TransientError,
    Unknown,
)
from domain.events import DatasetOutcome, RunEvent, TenantEvent
from domain.ids import Dataset, RunId, run_stream, tenant_stream
from domain.run import Run
from domain.settings import Settings
from domain.tenant import Tenant
from eventstore.store import EventStore
from eventstore.streams import Held

log = structlog.get_logger()

RESOURCES: tuple[Resource, ...] = ("graph", "exchange")
NOT_STARTED = (
    SignInFailed,
    ReleaseRefused,
    NotAllowed,
    Unknown,
    KeyholderUnavailable,
    ConnectionLost,
    ServiceUnavailable,
    Throttled,
    EnvelopeRejected,
)
"""What keeps a run from starting: it ends failed, with the reason and nothing collected."""
WATCH_SECONDS = 1.0
"""How often an activation looks whether it is lost while its collectors work: they may wait for an hour."""


class TenantCore:
    """Bound to at most one tenant at a time. What it knows of a tenant is gone when `carry_out` returns."""

    def __init__(
        self,
        settings: Settings,
        store: EventStore,
        vault: Vault,
        catalog: Mapping[Dataset, Definition],
        *,
        clock: Callable[[], datetime],
        wait: Wait = asyncio.sleep,
        open_tokens: OpenTokens = SignIn,
    ) -> None:
        self._settings = settings
        self._store = store
        self._vault = vault
        self._catalog = catalog
        self._clock = clock
        self._wait = wait
        self._open_tokens = open_tokens
        self._turn = asyncio.Lock()

    async def carry_out(self, run: RunId, collectors: Mapping[str, Collector]) -> str:
        """Runs to an end, or until the activation is lost. `collectors` by workload. Returns the run's state.

        A second call waits for the first: a process serves one tenant at a time. Raises what the event store raises,
        and `Unknown` for a run or a tenant that is not there.
        """
        async with self._turn:
            return await self._bound(run, collectors)

    async def _bound(self, run: RunId, collectors: Mapping[str, Collector]) -> str:
        held: Held[Run | None, RunEvent] = Held(self._store, run_stream(run), runs.evolve, None)
        state = known_run(held.state, run)
        if state.state in runs.ENDED:
            return state.state
        tenant = self._tenant(state)
        cloud = self._settings.clouds.get(tenant.cloud)
        if cloud is None:
            raise Unknown("cloud", tenant.cloud, "Add it to tenantry.toml under [clouds].")
        activation = activate(
            self._store,
            self._vault,
            cloud=cloud,
            tenant=tenant,
            run=run,
            name=secrets.token_hex(6),
            clock=self._clock,
            wait=self._wait,
            open_tokens=self._open_tokens,
        )
        try:
            await self._carry_out(activation, state, collectors)
        except ActivationLost as lost:
            log.warning("activation-lost", tenant=tenant.id, run=run, why=str(lost))
        finally:
            await asyncio.to_thread(activation.close)
            for collector in set(collectors.values()):
                await forget(collector, activation)
        activation.run.refresh()
        return known_run(activation.run.state, run).state

    def _tenant(self, run: Run) -> Tenant:
        held: Held[Tenant | None, TenantEvent] = Held(self._store, tenant_stream(run.tenant), tenants.evolve, None)
        return tenants.known(held.state, run.tenant)

    async def _carry_out(self, activation: Activation, run: Run, collectors: Mapping[str, Collector]) -> None:
        pending = {
            name: DatasetCollection(
                activation,
                self._catalog[name],
                collectors[self._catalog[name].workload],
                full=run.full,
            )
            for name in run.datasets
            if name in self._catalog
        }
        unknown = [name for name in run.datasets if name not in self._catalog]
        try:
            tenants.may_run(activation.tenant)
            if unknown:
                raise Unknown("dataset", unknown[0], "See `tenantry data datasets`.")
            await self._sign_in(activation, pending)
        except NOT_STARTED as refusal:
            reason, detail = failure_words(refusal)
            outcomes = tuple(not_started(name) for name in run.datasets)
            activation.end(lambda state: runs.fail(state, activation.epoch, reason, detail, outcomes))
            return
        outcomes = await collect_all(activation, pending, self._catalog)
        activation.end(lambda state: runs.finish(state, activation.epoch, outcomes))

    async def _sign_in(self, activation: Activation, pending: Mapping[Dataset, DatasetCollection]) -> None:
        """The first token, before anything is asked; a run for the Exchange Server alone needs none."""
        resources = {self._catalog[name].workload for name in pending}
        for resource in RESOURCES:
            if resource in resources:
                await activation.token(resource)
                return


async def collect_all(
    activation: Activation, pending: Mapping[Dataset, DatasetCollection], catalog: Mapping[Dataset, Definition]
) -> tuple[DatasetOutcome, ...]:
    """Everything in parallel, but each dataset behind the gate it names, and behind the one it takes its items from.

    A gate that is not among the run's datasets keeps nothing: who asks for one dataset gets that one.
    """
    done: dict[Dataset, asyncio.Future[DatasetOutcome]] = {
        name: asyncio.get_running_loop().create_future() for name in pending
    }

    async def before(name: str) -> DatasetOutcome | None:
        """How the dataset it waits for ended, when that is part of this run and did not succeed."""
        awaited = done.get(Dataset(name))
        outcome = await awaited if awaited else None
        return None if outcome is None or outcome.outcome == "complete" else outcome

    async def collect(name: Dataset, collection: DatasetCollection) -> None:
        if gate := await before(catalog[name].after):
            outcome = not_started(name, "gate", f"{gate.dataset} did not succeed ({gate.reason}).")
        elif parent := await before(catalog[name].items):
            outcome = collection.skip("parent-incomplete", f"{parent.dataset} is {parent.outcome}: items are missing.")
        else:
            outcome = await collection.collect()
        done[name].set_result(outcome)

    async def watch() -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            activation.check()

    if not pending:
        return ()
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            await asyncio.wait([group.create_task(collect(name, one)) for name, one in pending.items()])
            watching.cancel()
    except ExceptionGroup as failed:
        raise foremost(failed) from None
    return tuple(future.result() for future in done.values())


def foremost(failed: ExceptionGroup[Exception]) -> Exception:
    """What ends the activation when several datasets failed at once: that it is lost, before anything else."""
    return (failed.subgroup(ActivationLost) or failed).exceptions[0]


def not_started(name: Dataset, reason: str | None = None, detail: str | None = None) -> DatasetOutcome:
    return DatasetOutcome(dataset=name, outcome="not-started", reason=reason, detail=detail)


def failure_words(
    refusal: SignInFailed | ReleaseRefused | NotAllowed | Unknown | EnvelopeRejected | TransientError,
) -> tuple[str, str]:
    if isinstance(refusal, (NotAllowed, Unknown)):
        return "not-allowed", str(refusal)
    return refusal_words(refusal)


async def forget(collector: Collector, activation: Activation) -> None:
    """A collector that cannot be told is one that died, and with it what it knew; or it forgets by itself in time."""
    try:
        await collector.forget(activation.tenant.id, activation.id, activation.epoch)
    except TenantryError as error:
        log.info("collector-not-told", tenant=activation.tenant.id, why=str(error))
