"""What stands between a client and the simulated directory: limits, batches, and faults."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from simulator.population import populate
from simulator.server import Simulator
from simulator.world import GRAPH, Fault, Tenant, World

NOW = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
REPORT = "/v1.0/reports/getOffice365ActiveUserDetail(period='D7')"


@dataclass
class Clock:
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def m365(clock: Clock) -> Iterator[Simulator]:
    with Simulator(World(), now=clock) as running:
        yield running


@pytest.fixture(scope="module")
def trust(m365: Simulator) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(m365.ca_file))


@pytest.fixture
def tenant(m365: Simulator, clock: Clock) -> Tenant:
    clock.now += timedelta(hours=1)
    made = populate(seed=11, name="Proseware", users=60, now=NOW)
    m365.world.tenants = {made.id: made}
    m365.world.faults = {}
    m365.world.requests.clear()
    return made


@pytest.fixture
def client(m365: Simulator, trust: ssl.SSLContext, tenant: Tenant) -> Iterator[httpx.Client]:
    token = m365.issuer.issue(tenant.id, "app-one", GRAPH, "principal")
    with httpx.Client(base_url=m365.url, verify=trust, headers={"Authorization": f"Bearer {token}"}) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "cost"),
    [
        ("users?$top=100", "2"),
        ("users?$select=id", "1"),
        ("users?$top=10&$select=id", "1"),
        ("users/$count", "1"),
        ("groups", "1"),
        ("subscribedSkus", "3"),
    ],
)
def test_a_read_tells_what_it_costs(client: httpx.Client, path: str, cost: str) -> None:
    answer = client.get(f"/v1.0/{path}", headers={"ConsistencyLevel": "eventual"})
    assert answer.headers["x-ms-resource-unit"] == cost


def test_members_cost_three_units_and_two_with_a_select(client: httpx.Client, tenant: Tenant) -> None:
    path = f"/v1.0/groups/{next(iter(tenant.groups))}/members"
    costs = [client.get(path + options).headers["x-ms-resource-unit"] for options in ("", "?$select=id")]
    assert costs == ["3", "2"]


def test_units_run_out_with_a_warning_first_and_come_back(
    client: httpx.Client, tenant: Tenant, clock: Clock, m365: Simulator
) -> None:
    tenant.settings["throttle_scale"] = 20 / 5_000
    answers = [client.get("/v1.0/groups?$top=20") for _ in range(21)]
    assert [answer.status_code for answer in answers] == [200] * 20 + [429]
    warned = [answer.headers.get("x-ms-throttle-limit-percentage") for answer in answers]
    assert warned[:16] == [None] * 16
    assert warned[16:20] == ["0.85", "0.90", "0.95", "1.00"]
    refused = answers[-1]
    assert refused.json()["error"]["code"] == "TooManyRequests"
    assert refused.headers["x-ms-throttle-scope"] == f"Tenant_Application/Read/app-one/{tenant.id}"
    assert refused.headers["x-ms-throttle-information"] == "ResourceUnitLimitExceeded"
    clock.now += timedelta(seconds=float(refused.headers["retry-after"]))
    assert client.get("/v1.0/groups").status_code == 200
    assert m365.world.requests[-2] == (tenant.id, "groups", "/v1.0/groups", 429)


def test_tenants_of_one_app_share_its_limit(client: httpx.Client, tenant: Tenant, m365: Simulator) -> None:
    other = populate(seed=12, name="Adatum", users=20, now=NOW)
    m365.world.tenants[other.id] = other
    for one in (tenant, other):
        one.settings["app_throttle_scale"] = 10 / 150_000
    token = m365.issuer.issue(other.id, "app-one", GRAPH, "principal")
    stranger = m365.issuer.issue(other.id, "app-two", GRAPH, "principal")
    assert [client.get("/v1.0/subscribedSkus").status_code for _ in range(3)] == [200] * 3
    refused = client.get("/v1.0/subscribedSkus", headers={"Authorization": f"Bearer {token}"})
    assert refused.headers["x-ms-throttle-scope"].startswith("Application/")
    assert client.get("/v1.0/groups", headers={"Authorization": f"Bearer {stranger}"}).status_code == 200


@pytest.mark.parametrize(("path", "limit"), [("/v1.0/auditLogs/signIns?$top=1", 5), (REPORT, 14)])
def test_logs_and_reports_have_limits_of_their_own(client: httpx.Client, path: str, limit: int) -> None:
    statuses = [client.get(path).status_code for _ in range(limit + 1)]
    assert (statuses.count(429), statuses[-1]) == (1, 429)
    assert client.get("/v1.0/users?$top=1").status_code == 200


def test_a_tenant_without_limits_is_never_throttled(client: httpx.Client, tenant: Tenant) -> None:
    tenant.settings |= {"throttle": False, "throttle_scale": 0.0001}
    assert {client.get("/v1.0/auditLogs/signIns?$top=1").status_code for _ in range(12)} == {200}


def batch(client: httpx.Client, items: list[dict[str, Any]]) -> httpx.Response:
    return client.post("/v1.0/$batch", json={"requests": items})


def item(number: int, url: str, **more: Any) -> dict[str, Any]:
    return {"id": str(number), "method": "GET", "url": url, **more}


def test_a_batch_answers_each_request_in_an_order_of_its_own(
    client: httpx.Client, tenant: Tenant, m365: Simulator
) -> None:
    groups = sorted(tenant.groups)
    asked = [item(n, f"/groups/{groups[n % len(groups)]}/owners?$select=id") for n in range(20)]
    answers = batch(client, asked).json()["responses"]
    assert [int(a["id"]) for a in answers] != list(range(20))
    assert sorted(int(a["id"]) for a in answers) == list(range(20))
    for answer in answers:
        owners = tenant.groups[groups[int(answer["id"]) % len(groups)]].owner_ids
        assert [row["id"] for row in answer["body"]["value"]] == sorted(owners)
        assert answer["headers"]["x-ms-resource-unit"] == "1"
    assert len([r for r in m365.world.requests if r[1] == "group-owners"]) == 20


def test_only_some_requests_of_a_batch_are_throttled(client: httpx.Client, tenant: Tenant, m365: Simulator) -> None:
    tenant.settings |= {"throttle_scale": 3 / 5_000, "batch_in_order": True}
    m365.world.faults[tenant.id, "subscribed-skus"] = [Fault("throttle", options={"retry_after": "2.5"})]
    answers = batch(client, [item(0, "/subscribedSkus"), *(item(n, "/groups") for n in range(1, 6))]).json()
    assert [a["status"] for a in answers["responses"]] == [429, 200, 200, 200, 429, 429]
    assert answers["responses"][0]["headers"]["Retry-After"] == "2.5"
    assert answers["responses"][5]["headers"]["Retry-After"] == "4"
    assert answers["responses"][5]["body"]["error"]["code"] == "TooManyRequests"


def test_each_request_of_a_batch_has_its_own_error(client: httpx.Client, tenant: Tenant) -> None:
    tenant.settings["batch_in_order"] = True
    answers = batch(
        client,
        [
            item(1, "/users/nobody"),
            item(2, "/users?$select=id&$top=1", dependsOn=["1"]),
            item(3, "https://elsewhere.example/users"),
            {"id": "4", "method": "DELETE", "url": "/groups"},
            item(5, "/users/$count", headers={"ConsistencyLevel": "eventual"}),
            item(6, REPORT.removeprefix("/v1.0")),
            item(7, "/$batch"),
        ],
    ).json()["responses"]
    assert [answer["status"] for answer in answers] == [404, 424, 400, 405, 200, 302, 400]
    assert answers[4]["body"] == "60"
    assert answers[5]["headers"]["Location"].startswith(str(client.base_url))


@pytest.mark.parametrize(
    "items",
    [
        [item(n, "/users") for n in range(21)],
        [{"id": "a", "method": "GET", "url": "/users"}, {"id": "A", "method": "GET", "url": "/users"}],
        [],
        [{"id": 1}],
        [item(1, "/users", dependsOn=["2"]), item(2, "/users")],
    ],
)
def test_what_is_no_batch_is_refused_whole(client: httpx.Client, items: list[dict[str, Any]]) -> None:
    assert batch(client, items).status_code == 400


def test_a_page_token_expires_by_fault_and_the_list_starts_again(
    client: httpx.Client, tenant: Tenant, m365: Simulator
) -> None:
    m365.world.faults[tenant.id, "users"] = [Fault("expired-page-token", after=1)]
    link = client.get("/v1.0/users?$top=20").json()["@odata.nextLink"]
    assert client.get(link).json()["error"]["code"] == "Directory_ExpiredPageToken"
    assert client.get("/v1.0/users?$top=20").status_code == 200


def test_an_error_can_come_in_a_200_and_a_body_of_nuls(client: httpx.Client, tenant: Tenant, m365: Simulator) -> None:
    m365.world.faults[tenant.id, "users"] = [Fault("error-in-200"), Fault("nul-body")]
    answer = client.get("/v1.0/users")
    assert (answer.status_code, list(answer.json())) == (200, ["error"])
    assert set(client.get("/v1.0/users").content) == {0}


@pytest.mark.parametrize(
    ("options", "header"), [({}, "1"), ({"retry_after": None}, None), ({"retry_after": 2.5}, "2.5")]
)
def test_a_throttling_fault_says_when_to_come_back_or_nothing(
    client: httpx.Client, tenant: Tenant, m365: Simulator, options: dict[str, Any], header: str | None
) -> None:
    m365.world.faults["*", "groups"] = [Fault("throttle", options=options)]
    answer = client.get("/v1.0/groups")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "TooManyRequests")
    assert answer.headers.get("retry-after") == header


@pytest.mark.parametrize("kind", ["reset", "cut"])
def test_a_broken_connection_is_an_error_and_the_next_one_works(
    client: httpx.Client, tenant: Tenant, m365: Simulator, kind: str
) -> None:
    m365.world.faults[tenant.id, "users"] = [Fault(kind)]
    with pytest.raises(httpx.TransportError):
        client.get("/v1.0/users")
    assert client.get("/v1.0/users").status_code == 200


def test_a_report_address_lives_five_minutes(
    client: httpx.Client, trust: ssl.SSLContext, tenant: Tenant, clock: Clock
) -> None:
    location = client.get(REPORT).headers["location"]
    with httpx.Client(verify=trust) as stranger:
        assert stranger.get(location).status_code == 200
        clock.now += timedelta(minutes=6)
        assert stranger.get(location).status_code == 403
