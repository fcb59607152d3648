"""A whole collection in this process against the simulated Microsoft 365: the real cores, readers, transports and MSAL,
with a clock that waiting moves. A fault that is switched on and befalls no request fails the test: it shows nothing."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import msgspec
from stage import Clock, SealingVault, Stage, play
from truth import collected, counted, differences

from actors.collector import CollectorCore
from actors.messages import Work
from collectors.psrp import RemotePowerShell
from collectors.signin import SignIn
from collectors.transport import HttpTransport, Patience
from collectors.work import Step
from crypto.credential import AppSecret, ServiceAccount
from crypto.secret import Secret
from domain.events import CollectionCompleted, DatasetOutcome, ExchangeServer
from domain.ids import ENTRA, EXCHANGE_SERVER, Dataset, RunId, TenantId
from domain.settings import Cloud
from eventstore.batches import BatchStore, open_batch_store
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import Account, App, Fault, Tenant
from simulator.world import AppSecret as KnownSecret

USERS = 60
LONG_SECONDS, SHORT_SECONDS = 30.0, 0.2
"""How long an answer is awaited, and how long where a slow one is to be given up."""
SLOW_SECONDS = 1.0
"""How long a slow answer takes unless it is said."""
SMALL: Mapping[Dataset, Mapping[str, Any]] = {
    Dataset("entra.users"): {"page_size": 15},
    Dataset("entra.groups"): {"page_size": 2},
    Dataset("entra.group-owners"): {"items_per_request": 3},
    Dataset("audit.sign-ins"): {"page_size": 20, "bucket": "graph"},
}
"""Pages so small that there are several of each dataset, and quotas so large that whoever waits has another reason."""


class Near:
    """A collector in this process, as `actors.remote.RemoteCollector` is one in another."""

    def __init__(self, core: CollectorCore) -> None:
        self.core = core

    async def transit_key(self) -> bytes:
        return self.core.transit_key

    async def next_batch(self, work: Work) -> Step:
        return await self.core.next_batch(work)

    async def forget(self, tenant: TenantId, run: RunId, epoch: int) -> None:
        await self.core.forget(tenant, run, epoch)


class Studio:
    """One simulated tenant with small pages, registered on a stage, its credentials in the stage's vault.

    `clock` tells the time to ours; the simulator has its own unless it was given the same.
    """

    def __init__(self, simulator: Simulator, clock: Clock | None = None) -> None:
        self.simulator = simulator
        self.faults: list[Fault] = []
        self.read_seconds = LONG_SECONDS
        seed = secrets.randbelow(1 << 30)
        clock = clock or Clock(datetime.now(UTC).replace(microsecond=0))
        now = clock.now()
        self.tenant: Tenant = populate(seed=seed, name=f"Studio {seed}", users=USERS, now=now, exchange_server=True)
        self.tenant.settings.update(exchange_page_cap=15, sign_ins_per_day=5, throttle=False)
        self.tenant.settings.update(psrp_max_shells=50, psrp_receive_bytes=1)
        simulator.world.tenants[self.tenant.id] = self.tenant
        self.id = TenantId(self.tenant.id)
        self.app = App(str(uuid4()), "collector")
        secret = secrets.token_urlsafe(16)
        self.app.secrets.append(KnownSecret(secret, now + timedelta(days=9)))
        self.tenant.apps[self.app.client_id] = self.app
        self.account = Account(f"reader@{self.tenant.domain}", secrets.token_urlsafe(16))
        self.tenant.accounts[self.account.upn] = self.account
        self.vault = SealingVault(
            {
                ENTRA: AppSecret(client_id=self.app.client_id, secret=secret),
                EXCHANGE_SERVER: ServiceAccount(username=self.account.upn, password=self.account.password),
            }
        )
        self.stage = Stage(self.vault, self.cloud, clock)
        for name, changes in SMALL.items():
            self.stage.catalog[name] = msgspec.structs.replace(self.stage.catalog[name], **changes)
        self.stage.register(self.id, self.tenant.domain, self.server)
        self.batches: BatchStore = open_batch_store("memory://")

    @property
    def cloud(self) -> Cloud:
        url, authority = self.simulator.url, str(self.simulator.ca_file)
        return Cloud(login=url, graph=url, exchange=url, compliance=url, activity=url, ca_bundle=authority)

    @property
    def server(self) -> ExchangeServer:
        return ExchangeServer(host="localhost", port=urlsplit(self.simulator.url).port or 0, auth="basic")

    def fail(self, route: str, kind: str, times: int | None = 1, after: int = 0, **options: object) -> None:
        """A slow answer is slower than anybody waits for it."""
        if kind == "slow":
            options.setdefault("seconds", SLOW_SECONDS)
            self.read_seconds = SHORT_SECONDS
        fault = Fault(kind, times, after, options)
        self.simulator.world.faults[self.tenant.id, route] = [fault]
        self.faults.append(fault)

    def mend(self) -> None:
        """Nothing goes wrong any more."""
        self.simulator.world.faults.clear()
        self.read_seconds = LONG_SECONDS

    def collect(self, *names: str, patience: Patience | None = None, full: bool = False) -> dict[str, DatasetOutcome]:
        """One run, its outcomes by dataset. Each page with rows becomes a batch of its own."""
        run = self.stage.request(*names, tenant=self.id, full=full)

        async def carried_out() -> None:
            near = Near(self._collector(patience))
            core = self.stage.core(open_tokens=functools.partial(SignIn, timeout=(LONG_SECONDS, self.read_seconds)))
            await core.carry_out(run, dict.fromkeys(("graph", "exchange", "exchange-server"), near))
            await near.core.aclose()

        play(carried_out())
        self.last = self.stage.run(run)
        assert [fault for fault in self.faults if not fault.taken] == [], "a fault befell no request"
        return {str(one.dataset): one for one in self.last.outcomes}

    def _collector(self, patience: Patience | None) -> CollectorCore:
        clock = self.stage.clock

        def transport(cloud: Cloud) -> HttpTransport:
            return HttpTransport(
                cloud,
                patience=patience or Patience(),
                timeout=httpx.Timeout(LONG_SECONDS, read=self.read_seconds),
                wait=clock.wait,
                clock=clock.steady,
                chance=lambda: 0.0,
            )

        def shell(server: ExchangeServer, username: str, password: Secret, ca_bundle: str) -> RemotePowerShell:
            return RemotePowerShell(
                server, username, password, ca_bundle, read_seconds=self.read_seconds, wait=clock.wait
            )

        return CollectorCore(
            "near",
            self.batches,
            self.stage.catalog,
            limit_bytes=1,
            transport=transport,
            shell=shell,
            clock=clock.steady,
        )

    def rows(self, name: str) -> list[dict[str, object]]:
        return collected(self.stage.store, self.batches, self.id, name, self.vault.data_key)

    def differences(self, name: str) -> list[str]:
        """What is wrong with the rows of a complete dataset: nothing, when the batches add up to the truth."""
        events = self.stage.collection(name, self.id)
        recorded, said = counted(events)
        doubled = [] if recorded == said else [f"{recorded} rows in batches, {said} in the end"]
        return doubled + differences(self.tenant, name, self.rows(name), events)

    def happened(self, name: str) -> list[str]:
        """What is on record of a dataset, by name."""
        return [type(event).__name__ for event in self.stage.collection(name, self.id)]

    def completed(self, name: str) -> CollectionCompleted:
        """How a dataset's last pass ended."""
        event = self.stage.collection(name, self.id)[-1]
        assert isinstance(event, CollectionCompleted)
        return event

    @property
    def waited(self) -> list[float]:
        """The seconds of each wait before something was asked again."""
        return self.stage.clock.waited

    def answers(self, route: str) -> list[int]:
        """The status of each answer of the route, from the first on."""
        return [status for tenant, by, _, status in self.simulator.world.requests if (tenant, by) == (self.id, route)]

    def sign_ins(self) -> int:
        """Requests for a token, answered or refused."""
        return len(self.answers("token"))


def by_outcome(outcomes: Mapping[str, DatasetOutcome]) -> dict[str, tuple[str, str | None]]:
    return {name: (one.outcome, one.reason) for name, one in outcomes.items()}
