"""One collection as a tenant actor carries it out, everything but Ray: the keyholder in its own process releases the
credential and the data key, every batch is stored and synced on disk and appended to the event store before the next.

Measured is the collection alone: from its first event to its last, behind the sign-in. It runs on uvloop, as Ray's
asynchronous actors do where it is installed.
"""

from __future__ import annotations

from datetime import UTC, datetime

import uvloop

from actors.activation import activate
from actors.collection import DatasetCollection
from actors.collector import CollectorCore
from actors.logs import log_to
from actors.messages import Work
from actors.stores import open_store
from actors.vault import VaultCore
from bench.measured import Job, Measured, peak_mib, read_job, report, stopwatch
from collectors.catalog import load_catalog
from collectors.work import Step
from domain import run as runs
from domain import tenant as tenants
from domain.events import BatchRecorded, TenantEvent
from domain.ids import RunId, TenantId, collection_stream, dataset, tenant_stream
from domain.tenant import Tenant
from eventstore.batches import open_batch_store
from eventstore.streams import Held


class Near:
    """A collector in this process, as `actors.remote.RemoteCollector` is one in another."""

    def __init__(self, core: CollectorCore) -> None:
        self._core = core

    async def transit_key(self) -> bytes:
        return self._core.transit_key

    async def next_batch(self, work: Work) -> Step:
        return await self._core.next_batch(work)

    async def forget(self, tenant: TenantId, run: RunId, epoch: int) -> None:
        await self._core.forget(tenant, run, epoch)


async def collection(job: Job) -> Measured:
    log_to(job.settings, "bench")
    store = open_store(job.settings)
    catalog, name = load_catalog(job.settings.catalog), dataset(job.dataset)
    core = CollectorCore("bench", open_batch_store(job.settings.batches), catalog)
    tenant: Held[Tenant | None, TenantEvent] = Held(store, tenant_stream(TenantId(job.tenant)), tenants.evolve, None)
    known = tenants.known(tenant.state, TenantId(job.tenant))
    activation = activate(
        store,
        VaultCore(job.settings),
        cloud=job.settings.clouds[known.cloud],
        tenant=known,
        run=RunId(job.run),
        name="bench",
        clock=lambda: datetime.now(UTC),
    )
    await activation.token("graph")
    await activation.data_key()
    with stopwatch() as watch:
        outcome = await DatasetCollection(activation, catalog[name], Near(core), full=True).collect()
    activation.end(lambda state: runs.finish(state, activation.epoch, (outcome,)))
    await core.aclose()
    activation.close()
    recorded = [one.event for one in store.read(collection_stream(known.id, name))]
    store.close()
    if outcome.outcome != "complete":
        raise RuntimeError(f"The collection is {outcome.outcome}: {outcome.reason} {outcome.detail}")
    batches = [event for event in recorded if isinstance(event, BatchRecorded) and event.run == job.run]
    return Measured(
        rows=outcome.rows,
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        requests=outcome.requests,
        row_bytes=sum(batch.row_bytes for batch in batches),
        stored_bytes=sum(batch.stored_bytes for batch in batches),
        peak_mib=peak_mib(),
    )


if __name__ == "__main__":
    report(uvloop.run(collection(read_job())))
