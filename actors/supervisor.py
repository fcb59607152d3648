"""The supervisor's core: follows the event store for requested runs and gives each to a free tenant actor.

It keeps nothing that is not in events: after a restart it reads which runs are open and activates them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from actors.patience import ACTOR, Wait
from domain import run as runs
from domain.errors import PermanentError, StoreUnavailable, TransientError
from domain.events import RunCancelled, RunEvent, RunFailed, RunFinished, RunRequested
from domain.ids import RunId, TenantId, run_stream
from domain.run import Run
from eventstore.store import EventStore
from eventstore.streams import Held

log = structlog.get_logger()

POLL = timedelta(milliseconds=100)
PAGE = 1_000
ATTEMPTS = 30
"""Activations of one run before it is given up; each costs about a second when actors die at once."""
QUIET_SECONDS = 30
"""How long nothing is heard of a run that another supervisor took before it is taken back."""


class Place(Protocol):
    """Where a run can be carried out: a tenant actor with the collectors it uses. Raises `CollectorLost` when it died,
    and what its event store raises."""

    async def carry_out(self, run: RunId) -> str: ...


@dataclass(eq=False)
class SupervisorCore:
    """`work` returns when nothing is open, if asked to; otherwise it goes on until it is stopped. Several may be under
    way at once: they share the places."""

    store: EventStore
    places: Sequence[Place]
    clock: Callable[[], datetime]
    wait: Wait = asyncio.sleep
    _position: int = 0
    _open: dict[RunId, TenantId] = field(default_factory=dict)
    _busy: dict[RunId, asyncio.Task[None]] = field(default_factory=dict)
    _heard: dict[TenantId, int] = field(default_factory=dict)
    _free: list[Place] = field(init=False)

    def __post_init__(self) -> None:
        self._free = list(self.places)

    async def work(self, *, until_idle: bool) -> None:
        """Raises what the event store raises: `StoreUnavailable` only when that lasts."""
        silent = 0
        while True:
            try:
                self._follow()
                silent = 0
            except StoreUnavailable as error:
                silent += 1
                if silent == ATTEMPTS:
                    raise
                log.warning("store-unavailable", why=str(error))
            self._give_out()
            if until_idle and not silent and not self._open and not self._busy:
                return
            if self._busy:
                await asyncio.wait(
                    self._busy.values(), timeout=POLL.total_seconds(), return_when=asyncio.FIRST_COMPLETED
                )
            else:
                await self.wait(POLL.total_seconds())

    def _follow(self) -> None:
        """Reads on. Only the events of runs are opened; that a collection made progress is seen from outside."""
        while page := self.store.stored(self._position, PAGE):
            for stored in page:
                category, _, key = stored.stream.partition(":")
                if category == "run":
                    self._note(RunId(key), self.store.open(stored).event)
                elif category == "collection":
                    self._heard_of(TenantId(key.partition(":")[0]), stored.position)
                self._position = stored.position

    def _heard_of(self, tenant: TenantId, position: int) -> None:
        if tenant in self._heard:
            self._heard[tenant] = position

    def _note(self, run: RunId, event: object) -> None:
        match event:
            case RunRequested(tenant=tenant):
                self._open[run] = tenant
            case RunFinished() | RunFailed() | RunCancelled():
                if run not in self._busy:
                    self._open.pop(run, None)
            case _:
                pass

    def _give_out(self) -> None:
        """One run per tenant at a time, in the order of their requests."""
        for run in [run for run, task in self._busy.items() if task.done()]:
            self._busy.pop(run).result()
            self._open.pop(run, None)
        serving = {self._open[run] for run in self._busy}
        for run, tenant in self._open.items():
            if not self._free:
                return
            if run not in self._busy and tenant not in serving:
                serving.add(tenant)
                self._busy[run] = asyncio.create_task(self._carry_out(run, tenant, self._free.pop()))

    def _held(self, run: RunId) -> Held[Run | None, RunEvent]:
        return Held(self.store, run_stream(run), runs.evolve, None)

    async def _carry_out(self, run: RunId, tenant: TenantId, place: Place) -> None:
        """Activates the run until it has ended, again and again when actors die under it."""
        why = "others took it again and again"
        try:
            for attempt in range(ATTEMPTS):
                try:
                    if await place.carry_out(run) in runs.ENDED:
                        return
                    await self._leave(run, tenant)
                    continue
                except TransientError as error:
                    why = str(error)
                except PermanentError as error:
                    why = str(error)
                    break
                log.warning("run-interrupted", run=run, attempt=attempt, why=why)
                await self.wait(ACTOR.pause(attempt))
            self._held(run).decide(
                lambda state: runs.cancel(state, f"given up: {why}") if state else [],
                at=self.clock(),
                actor="supervisor",
                cause=run,
            )
        finally:
            self._free.append(place)

    async def _leave(self, run: RunId, tenant: TenantId) -> None:
        """Another supervisor took the run: leaves it alone until it has ended or makes no progress any more."""
        self._heard[tenant] = quiet = 0
        try:
            while quiet < QUIET_SECONDS:
                before = self._heard[tenant]
                await self.wait(1.0)
                self._follow()
                state = self._held(run).state
                if state is None or state.state in runs.ENDED:
                    return
                quiet = 0 if self._heard[tenant] != before else quiet + 1
        finally:
            del self._heard[tenant]
