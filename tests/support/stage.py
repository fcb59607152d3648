"""A tenant actor's core on a stage: an event store in memory, and hand-written fakes of everybody it talks to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import folds
import msgspec

from actors.activation import OpenTokens
from actors.messages import Collector, Work
from actors.tenant import TenantCore
from collectors.catalog import load_catalog
from collectors.dataset import Dataset as Definition
from collectors.signin import AccessToken, Resource
from collectors.work import Batch, Complete, End, Step
from crypto import transit
from crypto.credential import AppSecret, Payload, ServiceAccount, encode
from crypto.datakey import DataKey, new_data_key
from crypto.secret import Secret
from crypto.transit import TransitKey
from domain.errors import SignInFailed, TransitKeyChanged
from domain.events import AnyEvent, CredentialSealed, ExchangeServer, RunRequested, TenantRegistered
from domain.ids import (
    ENTRA,
    EXCHANGE_SERVER,
    Dataset,
    RunId,
    Slot,
    Stream,
    TenantId,
    collection_stream,
    credential_stream,
    new_run_id,
    run_stream,
    tenant_stream,
)
from domain.run import Run
from domain.settings import CLOUDS, Cloud, Settings
from eventstore.store import EventStore, open_event_store
from vault.messages import Release, ReleaseDataKey, data_key_context, release_context

CONTOSO = TenantId("11111111-2222-3333-4444-555555555555")
FABRIKAM = TenantId("66666666-7777-8888-9999-000000000000")
BEGIN = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
SERVER = ExchangeServer(host="exchange.contoso.com")

T = TypeVar("T")
Answer = Step | Exception | Callable[[Work], Awaitable[Step]]


def play(work: Coroutine[Any, Any, T]) -> T:
    """Runs to the end; a stage that hangs fails instead."""
    return asyncio.run(asyncio.wait_for(work, 30))


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self, begin: datetime = BEGIN) -> None:
        self.begin = begin
        self.seconds = 0.0
        self.waited: list[float] = []

    def now(self) -> datetime:
        return self.begin + timedelta(seconds=self.seconds)

    def steady(self) -> float:
        return self.seconds

    async def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)


class SealingVault:
    """Gives what it was given, sealed to the asker. `trouble` is raised first, one at each request."""

    def __init__(self, credentials: Mapping[Slot, Payload] | None = None, data_key: DataKey | None = None) -> None:
        self.credentials = dict(credentials or {ENTRA: app_secret(), EXCHANGE_SERVER: account()})
        self.data_key = data_key or new_data_key()
        self.trouble: list[Exception] = []
        self.released: list[Release] = []

    async def release(self, request: Release) -> bytes:
        self._stumble()
        self.released.append(request)
        context = release_context(request.run, request.tenant, request.slot, request.activation, request.epoch)
        return transit.seal(request.transit_key, encode(self.credentials[Slot(request.slot)]), context)

    async def release_data_key(self, request: ReleaseDataKey) -> bytes:
        self._stumble()
        context = data_key_context(request.tenant, request.run or "")
        return transit.seal(request.transit_key, self.data_key.to_secret(), context)

    def _stumble(self) -> None:
        if self.trouble:
            raise self.trouble.pop(0)


class Issued:
    """Access tokens out of nothing. `refusals` by resource, `trouble` once each; `asked` notes each sign-in."""

    def __init__(self) -> None:
        self.refusals: dict[Resource, Exception] = {}
        self.trouble: list[Exception] = []
        self.asked: list[Resource] = []
        self.known: dict[Resource, AccessToken] = {}
        self.closed = False

    def __call__(self, cloud: Cloud, tenant: TenantId, credential: Payload, *, now: Callable[[], datetime]) -> Issued:
        return self

    def token(self, resource: Resource, *, fresh: bool = False) -> AccessToken:
        if resource in self.known and not fresh:
            return self.known[resource]
        self.asked.append(resource)
        if self.trouble:
            raise self.trouble.pop(0)
        if resource in self.refusals:
            raise self.refusals[resource]
        self.known[resource] = AccessToken(Secret(secrets.token_hex(16)), BEGIN + timedelta(hours=1))
        return self.known[resource]

    def close(self) -> None:
        self.closed = True


class ScriptedCollector:
    """Answers a dataset with what its script says next, and with `Complete` when it says nothing (any more)."""

    def __init__(self, scripts: Mapping[str, Sequence[Answer]] | None = None) -> None:
        self.scripts = {name: list(script) for name, script in (scripts or {}).items()}
        self.transit = TransitKey.generate()
        self.works: list[Work] = []
        self.forgotten: list[tuple[TenantId, RunId, int]] = []

    async def transit_key(self) -> bytes:
        return self.transit.public

    async def next_batch(self, work: Work) -> Step:
        self.works.append(work)
        if work.sealed_to != self.transit.public:
            raise TransitKeyChanged("scripted")
        script = self.scripts.get(work.assignment.dataset)
        answer = script.pop(0) if script else ends(Complete())
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Step) else await answer(work)

    async def forget(self, tenant: TenantId, run: RunId, epoch: int) -> None:
        self.forgotten.append((tenant, run, epoch))

    def asked(self, dataset: str) -> list[Work]:
        return [work for work in self.works if work.assignment.dataset == dataset]


class Stage:
    """Two registered tenants with credentials, one event store, and cores that work on it."""

    def __init__(
        self, vault: SealingVault | None = None, cloud: Cloud = CLOUDS["public"], clock: Clock | None = None
    ) -> None:
        self.store: EventStore = open_event_store("memory:", secrets.token_bytes(32))
        self.vault = vault or SealingVault()
        self.issued = Issued()
        self.clock = clock or Clock()
        self.catalog: dict[Dataset, Definition] = dict(load_catalog())
        self.settings = Settings(
            state="/", eventstore="memory:", secrets="file:///secrets", batches="memory://", clouds={"public": cloud}
        )
        self._requests = 0
        for tenant, domain in ((CONTOSO, "contoso.com"), (FABRIKAM, "fabrikam.com")):
            self.register(tenant, domain)

    def register(self, tenant: TenantId, domain: str, server: ExchangeServer | None = SERVER) -> None:
        registered = TenantRegistered(tenant=tenant, name=domain, domain=domain, cloud="public", exchange_server=server)
        self.append(tenant_stream(tenant), registered)
        for slot in (ENTRA, EXCHANGE_SERVER):
            sealed = CredentialSealed(
                tenant=tenant, slot=slot, kind="app-secret", identity="collector", vault_key="key", digest="00"
            )
            self.append(credential_stream(tenant, slot), sealed)

    def append(self, stream: Stream, *events: AnyEvent) -> None:
        self.store.append(stream, len(self.store.read(stream)), events, at=BEGIN, actor="operator:test", cause="test")

    def request(self, *names: str, tenant: TenantId = CONTOSO, full: bool = False) -> RunId:
        self._requests += 1
        run = new_run_id(BEGIN, self._requests)
        datasets = tuple(Dataset(name) for name in names)
        self.append(run_stream(run), RunRequested(run=run, tenant=tenant, datasets=datasets, full=full))
        return run

    def core(self, *, open_tokens: OpenTokens | None = None, vault: SealingVault | None = None) -> TenantCore:
        return TenantCore(
            self.settings,
            self.store,
            vault or self.vault,
            self.catalog,
            clock=self.clock.now,
            wait=self.clock.wait,
            open_tokens=open_tokens or self.issued,
        )

    def carry_out(self, run: RunId, collector: Collector) -> str:
        return play(self.core().carry_out(run, everywhere(collector)))

    def events(self, stream: Stream) -> list[AnyEvent]:
        return [recorded.event for recorded in self.store.read(stream)]

    def collection(self, name: str, tenant: TenantId = CONTOSO) -> list[AnyEvent]:
        return self.events(collection_stream(tenant, Dataset(name)))

    def run(self, run: RunId) -> Run:
        state = folds.run(recorded.event for recorded in self.store.read(run_stream(run)))  # type: ignore[misc]
        assert state is not None
        return state

    def outcomes(self, run: RunId) -> dict[str, tuple[str, str | None, int]]:
        """(outcome, reason, rows) of each dataset of an ended run."""
        return {str(one.dataset): (one.outcome, one.reason, one.rows) for one in self.run(run).outcomes}


def everywhere(collector: Collector) -> dict[str, Collector]:
    return dict.fromkeys(("graph", "exchange", "exchange-server"), collector)


def ends(end: End, requests: int = 1) -> Step:
    return Step(batch=None, end=end, requests=requests)


def batch(after: str | None, cursor: str, rows: int = 10, end: End | None = None, digest: str = "") -> Step:
    """A batch that goes on at `after`; its digest follows from its cursor."""
    named = digest or f"digest-{cursor}"
    made = Batch(
        key=f"{CONTOSO}/dataset/{named}",
        data_key="0123456789abcdef",
        rows=rows,
        row_bytes=100 * rows,
        stored_bytes=50 * rows,
        digest=named,
        requests=1,
        after=after,
        cursor=cursor,
    )
    return Step(batch=made, end=end, requests=1)


def refused(code: int = 7000215, category: str = "permanent-credential") -> SignInFailed:
    return SignInFailed(code, category, "The client secret is wrong.", "Seal the right one.")


def app_secret() -> AppSecret:
    return AppSecret(client_id="0b6f0b6f-0000-0000-0000-000000000001", secret=secrets.token_urlsafe(16))


def account() -> ServiceAccount:
    return ServiceAccount(username="CONTOSO\\reader", password=secrets.token_urlsafe(16))


def definition(name: str, **changes: Any) -> Definition:
    return msgspec.structs.replace(load_catalog()[Dataset(name)], **changes)
