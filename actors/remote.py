"""Ray's side of the actors: shells of short methods around the plain cores, and what their handles look like to others.

Imported only by `system`, after Ray's variables are set.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import ray
import structlog
from ray.exceptions import RayError, RayTaskError

from actors.build import build_of
from actors.collector import CollectorCore
from actors.logs import log_to
from actors.messages import Unforeseen, Work
from actors.stores import open_store
from actors.supervisor import SupervisorCore
from actors.tenant import TenantCore
from actors.vault import VaultCore
from collectors.catalog import load_catalog
from collectors.work import Step
from domain.errors import CollectorLost, KeyholderUnavailable, TenantryError
from domain.ids import RunId, TenantId
from domain.settings import Settings
from eventstore.batches import open_batch_store
from vault.hardening import die_with_parent, refuse_core_files
from vault.messages import Release, ReleaseDataKey

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")
Handle: TypeAlias = Any
"""Ray's actor handle; its methods are made from the shell's at run time."""


FORGETFUL = {
    "env_vars": {
        "PYTHONMALLOC": "malloc",
        "GLIBC_TUNABLES": "glibc.malloc.perturb=85:glibc.malloc.tcache_count=0",
    }
}
"""For processes that hold a released credential: Python frees through the C library, and that overwrites what is freed
(mallopt(3), M_PERTURB; blocks in its per-thread cache would be left as they are). MSAL, requests, OpenSSL and pypsrp
copy a password many times; without this the copies are found in memory after the run. It costs 0.2 s of CPU when the
process starts and 23 MiB while it lives; the CPU time of a tenant actor's run stays the same. Another C library ignores
it.

Objects that hold each other, as MSAL's and pypsrp's do, are freed by the collector of garbage alone: it is called when
a tenant is forgotten, and need not look at what was there from the beginning (`gc.freeze`).
"""
FRAME = re.compile(r'File "([^"]{1,300})", line (\d+), in (\S+)')
MOST_FRAMES = 6


def again(method: Callable[P, T]) -> Callable[P, T]:
    """Marks a method that only looks: a call whose answer was lost with its actor is made again."""
    return cast("Callable[P, T]", ray.method(max_task_retries=-1)(method))


def now() -> datetime:
    return datetime.now(UTC)


class Process:
    """What every process of an actor does first, as it may come to hold a credential, and what it tells of itself. Left
    alone, it would go on with its work for some seconds after its node died."""

    def __init__(self, settings: Settings, name: str) -> None:
        die_with_parent()
        refuse_core_files()
        log_to(settings, name)
        self._build = build_of(settings)

    @again
    async def pid(self) -> int:
        return os.getpid()

    @again
    async def build(self) -> str:
        return self._build


class VaultActor(Process):
    """Passes sealed requests and answers; the keys are in its keyholder's process."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "vault")
        self._core = VaultCore(settings)

    async def release(self, request: Release) -> bytes:
        return await self._core.release(request)

    async def release_data_key(self, request: ReleaseDataKey) -> bytes:
        return await self._core.release_data_key(request)


class GraphCollector(Process):
    """Collects from Graph; asynchronous, its connections and quotas are its own."""

    def __init__(self, settings: Settings, name: str, batch_bytes: int) -> None:
        super().__init__(settings, name)
        batches, catalog = open_batch_store(settings.batches), load_catalog(settings.catalog)
        self._core = CollectorCore(name, batches, catalog, limit_bytes=batch_bytes)
        gc.freeze()

    async def transit_key(self) -> bytes:
        return self._core.transit_key

    async def next_batch(self, work: Work) -> Step:
        return await self._core.next_batch(work)

    async def forget(self, tenant: TenantId, run: RunId, epoch: int) -> None:
        await self._core.forget(tenant, run, epoch)
        gc.collect()


class PowerShellCollector(GraphCollector):
    """Collects cmdlets: Exchange Online's over HTTPS, an Exchange Server's over PSRP in threads."""


class TenantActor(Process):
    """Carries out one run of one tenant at a time."""

    def __init__(self, settings: Settings, name: str, vault: Handle) -> None:
        super().__init__(settings, name)
        self._core = TenantCore(
            settings, open_store(settings), RemoteVault(vault), load_catalog(settings.catalog), clock=now
        )
        gc.freeze()

    async def carry_out(self, run: RunId, collectors: Mapping[str, tuple[str, Handle]]) -> str:
        remote = {workload: RemoteCollector(name, handle) for workload, (name, handle) in collectors.items()}
        try:
            return await self._core.carry_out(run, remote)
        finally:
            gc.collect()


class Supervisor(Process):
    """Gives requested runs to tenant actors; everything it knows is in the event store."""

    def __init__(
        self,
        settings: Settings,
        tenants: Sequence[Handle],
        graph: Sequence[Handle],
        powershell: Sequence[Handle],
    ) -> None:
        super().__init__(settings, "supervisor")
        places = [
            RemotePlace(
                tenant,
                {
                    "graph": (f"graph-{n % len(graph)}", graph[n % len(graph)]),
                    "exchange": (f"powershell-{n % len(powershell)}", powershell[n % len(powershell)]),
                    "exchange-server": (f"powershell-{n % len(powershell)}", powershell[n % len(powershell)]),
                },
            )
            for n, tenant in enumerate(tenants)
        ]
        self._core = SupervisorCore(open_store(settings), places, now)

    async def work(self, until_idle: bool) -> None:
        await self._core.work(until_idle=until_idle)


async def answered(call: Awaitable[T], lost: type[CollectorLost] | type[KeyholderUnavailable], *facts: str) -> T:
    """The answer of an actor, or the error it raised as it was raised there.

    `lost(*facts, why)` when it died, even though it may have done what was asked.
    """
    try:
        return await call
    except RayTaskError as error:
        raise original(error) from None
    except RayError as error:
        raise lost(*facts, type(error).__name__) from None


def original(error: RayTaskError) -> TenantryError:
    """The error inside: Ray's own has the arguments of no error of ours, and a stack trace for a sentence."""
    if isinstance(error.cause, TenantryError):
        return error.cause
    log.error("unforeseen", actor=error.function_name, error=type(error.cause).__name__, at=places(error.traceback_str))
    return Unforeseen(error.function_name, type(error.cause).__name__)


def places(trace: str) -> list[str]:
    """File, line and function of the last frames: a trace also quotes the message, which may hold anything."""
    return [f"{file}:{line} {function}" for file, line, function in FRAME.findall(trace)[-MOST_FRAMES:]]


class RemoteCollector:
    def __init__(self, name: str, handle: Handle) -> None:
        self._name = name
        self._handle = handle

    async def transit_key(self) -> bytes:
        return await answered(self._handle.transit_key.remote(), CollectorLost, self._name)

    async def next_batch(self, work: Work) -> Step:
        return await answered(self._handle.next_batch.remote(work), CollectorLost, self._name)

    async def forget(self, tenant: TenantId, run: RunId, epoch: int) -> None:
        await answered(self._handle.forget.remote(tenant, run, epoch), CollectorLost, self._name)


class RemoteVault:
    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def release(self, request: Release) -> bytes:
        return await answered(self._handle.release.remote(request), KeyholderUnavailable)

    async def release_data_key(self, request: ReleaseDataKey) -> bytes:
        return await answered(self._handle.release_data_key.remote(request), KeyholderUnavailable)


class RemotePlace:
    """A tenant actor with the collectors of its runs."""

    def __init__(self, tenant: Handle, collectors: Mapping[str, tuple[str, Handle]]) -> None:
        self._tenant = tenant
        self._collectors = dict(collectors)

    async def carry_out(self, run: RunId) -> str:
        return await answered(self._tenant.carry_out.remote(run, self._collectors), CollectorLost, "tenant actor")


def shells() -> dict[str, Any]:
    """Every actor class. Restarts are unbounded; retries are ours: where an answer was lost, events decide."""
    return {
        "vault": ray.remote(num_cpus=0, max_restarts=-1, resources={"vault": 1})(VaultActor),
        "graph": ray.remote(num_cpus=0, max_restarts=-1)(GraphCollector),
        "powershell": ray.remote(num_cpus=0, max_restarts=-1, runtime_env=FORGETFUL)(PowerShellCollector),
        "tenant": ray.remote(num_cpus=0, max_restarts=-1, runtime_env=FORGETFUL)(TenantActor),
        "supervisor": ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Supervisor),
    }
