"""The collectors' core: carries out one batch of one collection per call, for whoever holds the run.

A call names the cursor it goes on from, so any collector can answer it; the open session is only a shortcut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from actors.binding import Binding, OpenSession, OpenShell
from actors.messages import Work, data_key_context, token_context
from collectors.batch import BatchWriter
from collectors.dataset import Dataset as Definition
from collectors.psrp import RemotePowerShell
from collectors.reader import Request, Response
from collectors.readers import reader_for
from collectors.session import LIMIT_BYTES, Session
from collectors.transport import HttpTransport
from collectors.work import Step
from crypto.datakey import DataKey, from_secret
from crypto.secret import Secret
from crypto.transit import TransitKey
from domain.errors import ActivationLost, TokenExpired, TransitKeyChanged, Unknown
from domain.ids import Dataset, RunId, TenantId
from domain.settings import Cloud
from eventstore.batches import BatchStore
from query.state import DatasetShape, items_of

IDLE_SECONDS = 900.0
"""An activation that asked nothing for so long is forgotten: its tenant actor died. If not, its sessions are reopened
at their cursors."""
MOST_BINDINGS = 256
CLOSE_SECONDS = 5.0
"""How long `forget` waits for a runspace pool to close; it goes on closing afterwards."""


class CollectorCore:
    """Connections and quotas per cloud, and what belongs to the activations that are bound.

    `limit_bytes`: rows of one batch before compression. `transport` and `shell` make connections, `clock` gives steady
    seconds; tests give their own.
    """

    def __init__(
        self,
        name: str,
        batches: BatchStore,
        catalog: Mapping[Dataset, Definition],
        *,
        limit_bytes: int = LIMIT_BYTES,
        transport: Callable[[Cloud], HttpTransport] = HttpTransport,
        shell: OpenShell = RemotePowerShell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._batches = batches
        self._catalog = catalog
        self._limit_bytes = limit_bytes
        self._new_transport = transport
        self._new_shell = shell
        self._clock = clock
        self._transit = TransitKey.generate()
        self._http: dict[Cloud, HttpTransport] = {}
        self._bindings: dict[tuple[TenantId, RunId], Binding] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def transit_key(self) -> bytes:
        return self._transit.public

    async def next_batch(self, work: Work) -> Step:
        """Reads from the assignment's cursor until a batch is stored or the pass has ended.

        Raises `TransitKeyChanged` when the work is sealed to a former self, `TokenExpired` when a new token is needed,
        `ActivationLost` when a later epoch asked or asks meanwhile, `SignInFailed` from an Exchange Server, and what
        the batch store raises.
        """
        if work.sealed_to != self._transit.public:
            raise TransitKeyChanged(self._name)
        binding = self._bound(work)
        return await binding.perform(self._next_batch(work, binding))

    async def forget(self, tenant: TenantId, run: RunId, epoch: int) -> None:
        """Drops what this activation left here: sessions, tokens, keys and runspaces. A later one is not disturbed."""
        known = self._bindings.get((tenant, run))
        if known is not None and known.epoch <= epoch:
            del self._bindings[tenant, run]
            await asyncio.wait((self._end(known),), timeout=CLOSE_SECONDS)

    async def aclose(self) -> None:
        for binding in self._bindings.values():
            self._end(binding)
        self._bindings.clear()
        await asyncio.gather(*self._ending)
        for transport in self._http.values():
            await transport.aclose()

    def _bound(self, work: Work) -> Binding:
        """The binding that this work belongs to. A former epoch's is ended, and so are those nobody uses any more."""
        assignment, now = work.assignment, self._clock()
        key = (assignment.tenant, assignment.run)
        known = self._bindings.pop(key, None)
        if known is not None and known.epoch != work.epoch:
            if known.epoch > work.epoch:
                self._bindings[key] = known
                raise ActivationLost(assignment.tenant, work.epoch)
            self._end(known)
            known = None
        self._forget_idle(now)
        binding = self._bindings[key] = known or Binding(assignment.tenant, work.epoch, now, self._new_shell)
        binding.used = now
        return binding

    def _forget_idle(self, now: float) -> None:
        idle = [key for key, binding in self._bindings.items() if not binding.busy]
        surplus = len(self._bindings) + 1 - MOST_BINDINGS
        for place, key in enumerate(idle):
            if place < surplus or self._bindings[key].used < now - IDLE_SECONDS:
                self._end(self._bindings.pop(key))

    def _end(self, binding: Binding) -> asyncio.Task[None]:
        ending = asyncio.ensure_future(binding.end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return ending

    async def _next_batch(self, work: Work, binding: Binding) -> Step:
        assignment = work.assignment
        secret = self._transit.open(work.token, token_context(assignment))
        opened = binding.sessions.pop(assignment.dataset, None)
        if opened is None or not opened.goes_on(assignment):
            opened = await self._open(work, binding, secret)
        if opened.secret is not secret:
            opened.secret.close()
            opened.secret = secret
        try:
            step = await opened.session.next_batch()
        except TokenExpired:
            binding.sessions[assignment.dataset] = opened
            raise
        if step.batch is not None:
            opened.cursor = step.batch.cursor
        if step.end is None:
            binding.sessions[assignment.dataset] = opened
        else:
            secret.close()
        return step

    async def _open(self, work: Work, binding: Binding, secret: Secret) -> OpenSession:
        assignment = work.assignment
        definition = self._definition(assignment.dataset)
        with self._transit.open(work.data_key, data_key_context(assignment)) as key:
            data_key = from_secret(key)
        reader = reader_for(definition, assignment, await self._items(work, definition, data_key))
        writer = BatchWriter(self._batches, data_key, assignment.tenant, assignment.dataset)

        async def perform(request: Request) -> Response:
            if request.workload == "exchange-server":
                return await binding.ask_server(assignment, opened.secret, request)
            return await self._transport(assignment.cloud).perform(request, opened.secret)

        session = Session(reader, perform, writer, self._limit_bytes)
        opened = OpenSession(session, secret, assignment.cursor, assignment.restarts)
        return opened

    async def _items(self, work: Work, definition: Definition, data_key: DataKey) -> list[str]:
        if not definition.items:
            return []
        parent = self._definition(Dataset(definition.items))
        shape = DatasetShape(key=parent.key, mode=parent.mode)
        tenant = work.assignment.tenant
        return await items_of(work.parent, self._batches, tenant, parent.name, data_key, shape, definition.item_key)

    def _definition(self, dataset: Dataset) -> Definition:
        if dataset not in self._catalog:
            raise Unknown("dataset", dataset, "See `tenantry data datasets`.")
        return self._catalog[dataset]

    def _transport(self, cloud: Cloud) -> HttpTransport:
        if cloud not in self._http:
            self._http[cloud] = self._new_transport(cloud)
        return self._http[cloud]
