"""Every dataset, collected from the simulated Microsoft 365 and compared with what there is, faults included."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from collectors.batch import BatchWriter
from collectors.catalog import load_catalog
from collectors.readers import reader_for
from collectors.session import Session
from collectors.throttle import Buckets
from collectors.transport import HttpTransport, Patience
from collectors.work import Assignment, Batch, Complete, End, NotPossible, Restart, Truncated
from crypto.batch import decode_batch
from crypto.datakey import DataKey, new_data_key
from crypto.secret import Secret
from domain.ids import Dataset, RunId, TenantId
from domain.settings import Cloud
from eventstore.batches import BatchStore, open_batch_store
from simulator.configuration import transport_rules
from simulator.population import change, populate
from simulator.server import Simulator
from simulator.world import Fault, Tenant, World

NOW = datetime.now(UTC).replace(microsecond=0)
RUN = RunId("20261122T203000-0a1b2c3d")
SMALL_PAGES = {"delta": 50, "window": 200}
CATALOG = {
    name: msgspec.structs.replace(
        dataset, page_size=SMALL_PAGES.get(dataset.mode, dataset.page_size), step_hours=min(dataset.step_hours, 24)
    )
    for name, dataset in load_catalog().items()
}
USER = "svc@tenantry.example"


@dataclass
class Estate:
    """A simulator with one tenant, a clock that waiting moves, and a batch store in memory."""

    simulator: Simulator
    tenant: Tenant
    data_key: DataKey = field(default_factory=new_data_key)
    store: BatchStore = field(default_factory=lambda: open_batch_store("memory://"))
    clock: float = 0.0
    waited: list[float] = field(default_factory=list)

    @property
    def cloud(self) -> Cloud:
        url = self.simulator.url
        return Cloud(
            login=url, graph=url, exchange=url, compliance=url, activity=url, ca_bundle=str(self.simulator.ca_file)
        )

    async def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.clock += seconds
        await asyncio.sleep(0)

    def now(self) -> float:
        return self.clock

    def assignment(self, name: str, **changes: Any) -> Assignment:
        mode = CATALOG[Dataset(name)].mode
        window = (NOW - timedelta(days=2), NOW) if mode == "window" else None
        given = {"mode": "full" if mode == "delta" else mode, "window": window, **changes}
        return Assignment(
            tenant=TenantId(self.tenant.id),
            run=RUN,
            dataset=Dataset(name),
            cloud=self.cloud,
            **given,
        )

    def token(self) -> Secret:
        issuer = self.simulator.issuer
        return Secret(issuer.issue(self.tenant.id, secrets.token_hex(8), self.simulator.url, secrets.token_hex(8)))

    def fail(self, route: str, kind: str, times: int | None = 1, after: int = 0, **options: Any) -> None:
        self.simulator.world.faults[(self.tenant.id, route)] = [Fault(kind, times, after, options)]

    @asynccontextmanager
    async def transport(self, patience: Patience | None = None) -> AsyncIterator[HttpTransport]:
        transport = HttpTransport(
            self.cloud,
            buckets=Buckets(),
            patience=patience or Patience(),
            wait=self.wait,
            clock=self.now,
            chance=lambda: 0.0,
        )
        try:
            yield transport
        finally:
            await transport.aclose()

    async def rows(self, batches: list[Batch], name: str) -> list[dict[str, Any]]:
        found = []
        for batch in batches:
            sealed = await self.store.get(batch.key)
            rows = decode_batch(sealed, self.data_key, TenantId(self.tenant.id), Dataset(name), batch.digest)
            assert len(rows) == batch.rows
            found += [json.loads(row) for row in rows]
        return found


@dataclass
class Collected:
    rows: list[dict[str, Any]]
    batches: list[Batch]
    end: End
    requests: int

    @property
    def ids(self) -> set[str]:
        return {row["id"] for row in self.rows}


async def collect(
    estate: Estate,
    assignment: Assignment,
    items: tuple[str, ...] = (),
    *,
    limit_bytes: int = 8 << 20,
    die_after: int | None = None,
    patience: Patience | None = None,
) -> Collected:
    """One collection to its end. After `die_after` batches the session is thrown away and begun anew at the cursor."""
    token = estate.token()
    batches: list[Batch] = []
    end: End | None = None
    requests = 0
    dataset = CATALOG[assignment.dataset]
    writer = BatchWriter(estate.store, estate.data_key, assignment.tenant, assignment.dataset)
    async with estate.transport(patience) as transport:
        while end is None:
            cursor = batches[-1].cursor if batches else assignment.cursor
            reader = reader_for(dataset, msgspec.structs.replace(assignment, cursor=cursor), items)
            session = Session(reader, lambda request: transport.perform(request, token), writer, limit_bytes)
            taken = 0
            while end is None and taken != die_after:
                step = await session.next_batch()
                requests += step.requests
                end = step.end
                if step.batch is not None:
                    assert step.batch.after == (batches[-1].cursor if batches else assignment.cursor)
                    batches.append(step.batch)
                    taken += 1
    return Collected(await estate.rows(batches, assignment.dataset), batches, end, requests)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(World()) as running:
        yield running


@pytest.fixture
def estate(simulator: Simulator) -> Estate:
    seed = secrets.randbelow(1 << 30)
    tenant = populate(seed=seed, name=f"Test {seed}", users=120, now=NOW)
    simulator.world.tenants[tenant.id] = tenant
    return Estate(simulator, tenant)


def run(coroutine: Awaitable[Collected]) -> Collected:
    return asyncio.run(coroutine)  # type: ignore[arg-type]


def items_of(collected: Collected, name: str) -> tuple[str, ...]:
    key = CATALOG[Dataset(name)].item_key
    return tuple(row[key] for row in collected.rows if "@removed" not in row)


def test_all_users_arrive_with_their_count_and_a_delta_link(estate: Estate) -> None:
    found = run(collect(estate, estate.assignment("entra.users")))

    assert found.ids == set(estate.tenant.people)
    assert isinstance(found.end, Complete)
    assert (found.end.expected, found.end.expected_by) == (120, "GET /v1.0/users/$count")
    assert found.end.delta_link is not None


def test_a_later_round_brings_only_what_changed(estate: Estate) -> None:
    first = run(collect(estate, estate.assignment("entra.users")))
    assert isinstance(first.end, Complete)
    changes = change(estate.tenant, 0.1)

    second = run(collect(estate, estate.assignment("entra.users", mode="delta", since=first.end.delta_link)))

    assert isinstance(second.end, Complete)
    assert len([row for row in second.rows if "@removed" in row]) == changes["removed"]
    assert changes["added"] <= len(second.rows) < 60


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("entra.organization", lambda t: 1),
        ("entra.subscribed-skus", lambda t: len(t.skus)),
        ("reports.active-users", lambda t: sum(1 for p in t.people.values() if p.sku_ids and p.created < NOW)),
        ("exchange.transport-rules", lambda t: len(transport_rules(t))),
        ("exchange.mailboxes", lambda t: sum(1 for p in t.people.values() if p.mailbox_guid)),
    ],
)
def test_a_whole_dataset_arrives(estate: Estate, name: str, rows: Callable[[Tenant], int]) -> None:
    found = run(collect(estate, estate.assignment(name)))

    assert isinstance(found.end, Complete)
    assert abs(len(found.rows) - rows(estate.tenant)) <= (3 if name == "reports.active-users" else 0)


def test_groups_and_their_owners_arrive(estate: Estate) -> None:
    groups = run(collect(estate, estate.assignment("entra.groups")))
    owners = run(collect(estate, estate.assignment("entra.group-owners"), items_of(groups, "entra.group-owners")))

    assert groups.ids == set(estate.tenant.groups)
    truth = {(group.id, owner) for group in estate.tenant.groups.values() for owner in group.owner_ids}
    assert isinstance(owners.end, Complete)
    assert {(row["_item"], row["id"]) for row in owners.rows} == truth


def test_sign_ins_arrive_window_by_window(estate: Estate) -> None:
    found = run(collect(estate, estate.assignment("audit.sign-ins")))

    assert found.end == Complete(watermark=NOW)
    assert len(found.ids) == len(found.rows) > 0
    assert all(NOW - timedelta(days=2) <= datetime.fromisoformat(row["createdDateTime"]) < NOW for row in found.rows)


def test_mailbox_statistics_arrive_for_every_mailbox(estate: Estate) -> None:
    mailboxes = run(collect(estate, estate.assignment("exchange.mailboxes")))
    items = items_of(mailboxes, "exchange.mailbox-statistics")

    found = run(collect(estate, estate.assignment("exchange.mailbox-statistics"), items))

    assert isinstance(found.end, Complete)
    assert {row["_item"] for row in found.rows} == set(items)
    assert len(found.rows) == len(items)


FAULTS = [
    ("users-delta", "throttle", {"retry_after": 3}),
    ("users-delta", "throttle", {"retry_after": "2.5"}),
    ("users-delta", "throttle", {"retry_after": None}),
    ("users-delta", "error", {"status": 503}),
    ("users-delta", "error", {"status": 500}),
    ("users-delta", "reset", {}),
    ("users-delta", "cut", {}),
    ("users-delta", "error-in-200", {}),
    ("users-delta", "nul-body", {}),
]


@pytest.mark.parametrize(("route", "kind", "options"), FAULTS)
def test_a_passing_fault_costs_no_row(estate: Estate, route: str, kind: str, options: dict[str, Any]) -> None:
    estate.fail(route, kind, times=2, after=1, **options)

    found = run(collect(estate, estate.assignment("entra.users")))

    assert isinstance(found.end, Complete)
    assert len(found.rows) == 120
    assert found.ids == set(estate.tenant.people)
    assert sum(estate.waited) > 0


def test_a_service_that_says_when_to_come_back_is_waited_for_however_often_it_says_so(estate: Estate) -> None:
    estate.fail("users-delta", "throttle", times=40, after=1, retry_after=1)

    found = run(collect(estate, estate.assignment("entra.users")))

    assert isinstance(found.end, Complete)
    assert found.ids == set(estate.tenant.people)
    assert estate.waited.count(1.0) >= 40


def test_a_wait_of_no_time_is_none_that_a_service_means(estate: Estate) -> None:
    estate.fail("users-delta", "throttle", times=None, after=1, retry_after=0)

    found = run(collect(estate, estate.assignment("entra.users")))

    assert isinstance(found.end, Truncated)
    assert found.end.reason == "throttled"
    assert len(estate.waited) < 100
    assert sum(estate.waited) > 1_800


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("throttle", "throttled"),
        ("error", "unavailable"),
        ("cut", "unavailable"),
        ("nul-body", "protocol"),
        ("error-in-200", "unavailable"),
    ],
)
def test_a_lasting_fault_truncates_and_keeps_what_was_read(estate: Estate, kind: str, reason: str) -> None:
    estate.fail("users-delta", kind, times=None, after=1)

    found = run(collect(estate, estate.assignment("entra.users"), patience=Patience(attempts=3, seconds=30.0)))

    assert isinstance(found.end, Truncated)
    assert found.end.reason == reason
    assert 0 < len(found.rows) < 120
    estate.simulator.world.faults.clear()
    rest = run(collect(estate, estate.assignment("entra.users", cursor=found.batches[-1].cursor)))
    assert isinstance(rest.end, Complete)
    assert found.ids | rest.ids == set(estate.tenant.people)
    assert not found.ids & rest.ids


def test_an_expired_page_token_restarts_the_collection(estate: Estate) -> None:
    estate.fail("users-delta", "expired-page-token", after=1)

    found = run(collect(estate, estate.assignment("entra.users")))

    assert found.end == Restart("page-token-expired", "full")


def test_a_gone_delta_link_restarts_with_everything(estate: Estate) -> None:
    first = run(collect(estate, estate.assignment("entra.users")))
    assert isinstance(first.end, Complete)
    estate.fail("users-delta", "gone")

    found = run(collect(estate, estate.assignment("entra.users", mode="delta", since=first.end.delta_link)))

    assert found.end == Restart("resync-required", "full")
    last = run(collect(estate, estate.assignment("entra.users", mode="delta", since=first.end.delta_link, restarts=3)))
    assert isinstance(last.end, Complete)


@pytest.mark.parametrize(
    ("name", "parent"),
    [("entra.users", ""), ("exchange.mailboxes", ""), ("audit.sign-ins", ""), ("entra.group-owners", "entra.groups")],
)
def test_a_collector_that_dies_after_every_batch_loses_and_doubles_nothing(
    estate: Estate, name: str, parent: str
) -> None:
    estate.tenant.settings["exchange_page_cap"] = 20
    items = items_of(run(collect(estate, estate.assignment(parent))), name) if parent else ()
    whole = run(collect(estate, estate.assignment(name), items))

    found = run(collect(estate, estate.assignment(name), items, limit_bytes=1, die_after=1))

    assert isinstance(found.end, Complete)
    assert len(found.batches) > 1 or name == "entra.group-owners"
    assert sorted(map(str, found.rows)) == sorted(map(str, whole.rows))


@pytest.mark.parametrize("name", ["entra.users", "exchange.mailboxes", "reports.active-users"])
def test_a_missing_permission_is_named(estate: Estate, name: str) -> None:
    dataset = CATALOG[Dataset(name)]
    estate.tenant.settings.update(missing_roles=(dataset.permission,), exchange_role=False)

    found = run(collect(estate, estate.assignment(name)))

    assert isinstance(found.end, NotPossible)
    assert found.end.reason == "not-permitted"
    assert dataset.permission in found.end.detail


def test_a_missing_licence_is_named(estate: Estate) -> None:
    estate.tenant.settings["premium"] = False

    found = run(collect(estate, estate.assignment("audit.sign-ins")))

    assert isinstance(found.end, NotPossible)
    assert found.end.reason == "unlicensed"
    assert "Entra ID P1" in found.end.detail


@pytest.mark.parametrize("kind", ["throttle", "error"])
def test_an_item_of_a_batch_that_failed_is_asked_again(estate: Estate, kind: str) -> None:
    groups = run(collect(estate, estate.assignment("entra.groups")))
    probe = run(collect(estate, estate.assignment("entra.group-owners"), items_of(groups, "entra.group-owners")))
    estate.fail("group-owners", kind, times=4, after=1)

    found = run(collect(estate, estate.assignment("entra.group-owners"), items_of(groups, "entra.group-owners")))

    assert isinstance(found.end, Complete)
    assert sorted(map(str, found.rows)) == sorted(map(str, probe.rows))
    assert sum(estate.waited) > 0


def test_an_exchange_warning_means_that_rows_are_missing(estate: Estate) -> None:
    estate.fail("exchange.get-mailbox", "warning", text="There are more results available.")

    found = run(collect(estate, estate.assignment("exchange.mailboxes")))

    assert isinstance(found.end, Truncated)
    assert found.end.reason == "warned"
    assert found.rows


def test_a_transient_exchange_error_with_status_400_is_tried_again(estate: Estate) -> None:
    estate.fail("exchange.get-mailbox", "transient", times=2)

    found = run(collect(estate, estate.assignment("exchange.mailboxes")))

    assert isinstance(found.end, Complete)
    assert estate.waited == [1.0, 2.0]


def test_an_expired_exchange_page_restarts_the_walk(estate: Estate) -> None:
    estate.tenant.settings["exchange_page_cap"] = 20
    estate.fail("exchange.get-mailbox", "expired-page-token", after=1)

    found = run(collect(estate, estate.assignment("exchange.mailboxes")))

    assert found.end == Restart("page-token-expired", "full")
