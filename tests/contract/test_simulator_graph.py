"""The simulated directory as a client sees it: collections, options, single items, sign-ins, reports."""

import csv
import io
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from simulator import graph
from simulator.graph_reports import COLUMNS
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import EXCHANGE, GRAPH, Tenant, World

NOW = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def m365(world: World) -> Iterator[Simulator]:
    with Simulator(world) as running:
        yield running


@pytest.fixture(scope="module")
def trust(m365: Simulator) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(m365.ca_file))


@pytest.fixture
def tenant(world: World, m365: Simulator) -> Tenant:
    made = populate(seed=7, name="Fabrikam", users=240, now=NOW)
    world.tenants = {made.id: made}
    return made


@pytest.fixture
def client(m365: Simulator, trust: ssl.SSLContext, tenant: Tenant) -> Iterator[httpx.Client]:
    token = m365.issuer.issue(tenant.id, "11111111-0000-0000-0000-000000000001", GRAPH, "principal")
    with httpx.Client(base_url=m365.url, verify=trust, headers={"Authorization": f"Bearer {token}"}) as made:
        yield made


def pages(client: httpx.Client, url: str, **headers: str) -> Iterator[dict[str, Any]]:
    following: str | None = url
    while following is not None:
        response = client.get(following, headers=headers)
        assert response.status_code == 200, response.text
        yield response.json()
        following = response.json().get("@odata.nextLink")


def rows(client: httpx.Client, url: str, **headers: str) -> list[dict[str, Any]]:
    return [row for page in pages(client, url, **headers) for row in page["value"]]


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def projected(dataset: str, tenant: Tenant, *names: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names} for row in graph.TRUTH[dataset](tenant)]


@pytest.mark.parametrize("version", ["v1.0", "beta"])
def test_all_users_come_once_over_several_pages(client: httpx.Client, tenant: Tenant, version: str) -> None:
    shown = list(pages(client, f"/{version}/users?$select=id,displayName,proxyAddresses,assignedLicenses&$top=100"))
    assert [len(page["value"]) for page in shown] == [100, 100, 40]
    names = ("id", "displayName", "proxyAddresses", "assignedLicenses")
    assert [row for page in shown for row in page["value"]] == projected("users", tenant, *names)


def test_a_select_shows_only_what_was_asked_for(client: httpx.Client) -> None:
    first = client.get("/v1.0/users?$select=displayName&$top=1").json()
    assert list(first["value"][0]) == ["displayName"]
    assert first["@odata.context"].endswith("$metadata#users(displayName)")


def test_groups_members_and_owners_are_those_of_the_tenant(client: httpx.Client, tenant: Tenant) -> None:
    found = rows(client, "/v1.0/groups?$top=7")
    assert [row["id"] for row in found] == sorted(tenant.groups)
    for relation in ("members", "owners"):
        listed = [
            {"groupId": group["id"], "id": row["id"]}
            for group in found
            for row in rows(client, f"/v1.0/groups/{group['id']}/{relation}?$select=id&$top=50")
        ]
        assert listed == graph.TRUTH[f"group-{relation}"](tenant)


@pytest.mark.parametrize(("path", "dataset"), [("organization", "organization"), ("subscribedSkus", "subscribed-skus")])
def test_a_small_collection_is_one_page_of_its_truth(
    client: httpx.Client, tenant: Tenant, path: str, dataset: str
) -> None:
    assert client.get(f"/v1.0/{path}").json()["value"] == graph.TRUTH[dataset](tenant)


def test_one_user_is_found_by_id_and_by_name(client: httpx.Client, tenant: Tenant) -> None:
    person = next(p for p in tenant.people.values() if not p.guest)
    by_id = client.get(f"/v1.0/users/{person.id}?$select=id,mail").json()
    assert (by_id["id"], by_id["mail"]) == (person.id, person.mail)
    assert client.get(f"/v1.0/users/{person.upn}").json()["id"] == person.id


def test_a_count_needs_the_eventual_consistency_level(client: httpx.Client) -> None:
    counted = client.get("/v1.0/users/$count", headers={"ConsistencyLevel": "eventual"})
    assert (counted.text, counted.headers["content-type"].split(";")[0]) == ("240", "text/plain")
    assert code(client.get("/v1.0/users/$count")) == (400, "Request_BadRequest")
    as_json = client.get("/v1.0/users/$count", headers={"ConsistencyLevel": "eventual", "Accept": "application/json"})
    assert as_json.status_code == 415
    first, *others = pages(client, "/v1.0/users?$count=true&$top=200", ConsistencyLevel="eventual")
    assert first["@odata.count"] == 240
    assert all("@odata.count" not in page for page in others)


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("users?$top=1000", 400, "Request_BadRequest"),
        ("users?$top=0", 400, "Request_BadRequest"),
        ("users?$top=many", 400, "Request_BadRequest"),
        ("users?$select=id,shoeSize", 400, "Request_BadRequest"),
        ("users?$select=aboutMe", 501, "NotImplemented"),
        ("users?$select=id,signInActivity&$top=999", 400, "Request_BadRequest"),
        ("users?$skip=10", 400, "Request_UnsupportedQuery"),
        ("users?$skiptoken=abcdef", 400, "Request_BadRequest"),
        ("users?$skiptoken=%00", 400, "Request_BadRequest"),
        ("users/nobody@fabrikam.example", 404, "Request_ResourceNotFound"),
        ("groups/00000000-0000-0000-0000-000000000000/members", 404, "Request_ResourceNotFound"),
        ("users/delta?$top=5", 400, "Request_UnsupportedQuery"),
        ("users/delta?$orderby=id", 400, "Request_UnsupportedQuery"),
        ("groups/delta?$expand=members", 400, "Request_UnsupportedQuery"),
        ("users/delta?$select=signInActivity", 400, "Request_UnsupportedQuery"),
        ("shoes", 400, "BadRequest"),
        ("auditLogs/signIns?$filter=colour eq 'blue'", 400, "Request_BadRequest"),
        ("auditLogs/signIns?$filter=signInEventTypes/any(t: t eq 'nonInteractiveUser')", 400, "Request_BadRequest"),
        ("auditLogs/signIns?$top=1001", 400, "Request_BadRequest"),
        ("reports/getOffice365ActiveUserDetail(period='D8')", 400, "InvalidPeriod"),
    ],
)
def test_what_graph_does_not_know_is_refused(client: httpx.Client, path: str, status: int, error: str) -> None:
    response = client.get(f"/v1.0/{path}", headers={"client-request-id": "mine"})
    assert code(response) == (status, error)
    inner = response.json()["error"]["innerError"]
    assert inner["client-request-id"] == response.headers["client-request-id"] == "mine"
    assert inner["request-id"] == response.headers["request-id"]


def test_a_page_token_is_altered_or_foreign_in_vain(client: httpx.Client, world: World, m365: Simulator) -> None:
    link = client.get("/v1.0/users?$top=50").json()["@odata.nextLink"]
    altered = link[:-3] + ("AAA" if not link.endswith("AAA") else "BBB")
    assert code(client.get(altered)) == (400, "Request_BadRequest")
    assert code(client.get(link.replace("/users?", "/groups?"))) == (400, "Request_BadRequest")
    other = populate(seed=8, name="Woodgrove", users=60, now=NOW)
    world.tenants[other.id] = other
    token = m365.issuer.issue(other.id, "app", GRAPH, "principal")
    assert code(client.get(link, headers={"Authorization": f"Bearer {token}"})) == (400, "Request_BadRequest")


def test_a_token_that_is_absent_expired_or_for_another_service_is_a_401(
    client: httpx.Client, m365: Simulator, tenant: Tenant
) -> None:
    expired = m365.issuer.issue(tenant.id, "app", GRAPH, "principal", lifetime=timedelta(seconds=-5))
    exchange = m365.issuer.issue(tenant.id, "app", EXCHANGE, "principal")
    for authorization in ("", "Bearer nonsense", f"Bearer {expired}", f"Bearer {exchange}"):
        response = client.get("/v1.0/users", headers={"Authorization": authorization})
        assert code(response) == (401, "InvalidAuthenticationToken")
        assert response.headers["www-authenticate"].startswith("Bearer realm=")


def test_a_missing_role_closes_its_routes_only(client: httpx.Client, tenant: Tenant) -> None:
    tenant.settings["missing_roles"] = ["AuditLog.Read.All"]
    assert code(client.get("/v1.0/auditLogs/signIns")) == (403, "Authorization_RequestDenied")
    assert client.get("/v1.0/users?$top=1").status_code == 200


def test_sign_ins_need_a_premium_licence(client: httpx.Client, tenant: Tenant) -> None:
    tenant.settings["premium"] = False
    refused = (403, "Authentication_RequestFromNonPremiumTenantOrB2CTenant")
    assert code(client.get("/v1.0/auditLogs/signIns")) == refused
    assert code(client.get("/v1.0/users?$select=id,signInActivity&$top=500")) == refused


def test_windows_of_sign_ins_together_are_the_whole_log(client: httpx.Client, tenant: Tenant) -> None:
    tenant.settings["throttle"] = False
    truth = graph.TRUTH["sign-ins"](tenant)
    assert [row["createdDateTime"] for row in truth] == sorted((r["createdDateTime"] for r in truth), reverse=True)
    gathered: list[dict[str, Any]] = []
    for day in range(31, -1, -6):
        start, end = (f"{NOW - timedelta(days=d):%Y-%m-%dT%H:%M:%SZ}" for d in (day, day - 6))
        window = f"$filter=createdDateTime ge {start} and createdDateTime lt {end}"
        found = rows(client, f"/v1.0/auditLogs/signIns?{window}&$top=300")
        assert found == rows(client, f"/v1.0/auditLogs/signIns?{window}")
        gathered = found + gathered
    assert gathered == truth


def test_some_sign_ins_arrive_late_and_none_ever_goes(tenant: Tenant) -> None:
    tenant.settings["sign_ins_per_day"] = 1_000
    before = {row["id"]: row["createdDateTime"] for row in graph.TRUTH["sign-ins"](tenant)}
    newest = max(before.values())
    tenant.people.clear()
    tenant.now += timedelta(hours=4)
    after = {row["id"]: row["createdDateTime"] for row in graph.TRUTH["sign-ins"](tenant)}
    kept_since = f"{tenant.now - timedelta(days=30):%Y-%m-%dT%H:%M:%SZ}"
    assert [key for key, created in after.items() if key not in before and created < newest]
    assert all(key in after for key, created in before.items() if created >= kept_since)


def test_a_report_is_a_redirect_to_a_file_that_wants_no_token(
    client: httpx.Client, trust: ssl.SSLContext, tenant: Tenant
) -> None:
    answer = client.get("/v1.0/reports/getOffice365ActiveUserDetail(period='D30')")
    assert answer.status_code == 302
    location = answer.headers["location"]
    assert client.get(location).status_code == 401
    with httpx.Client(verify=trust) as stranger:
        file = stranger.get(location)
        assert stranger.get(location, headers={"If-None-Match": file.headers["etag"]}).status_code == 304
        assert stranger.get(location[:-2] + "zz").status_code == 404
    assert file.headers["content-type"] == "application/octet-stream"
    assert file.content.startswith(b"\xef\xbb\xbf")
    read = list(csv.DictReader(io.StringIO(file.content.decode("utf-8-sig"), newline="")))
    assert (len(COLUMNS), read) == (24, graph.TRUTH["active-users"](tenant))
    assert {row["User Principal Name"] for row in read} <= {person.upn for person in tenant.people.values()}


def test_concealed_names_are_hashes_and_the_setting_says_so(client: httpx.Client, tenant: Tenant) -> None:
    assert client.get("/v1.0/admin/reportSettings").json()["displayConcealedNames"] is False
    tenant.settings["concealed_names"] = True
    assert client.get("/v1.0/admin/reportSettings").json()["displayConcealedNames"] is True
    names = {row["User Principal Name"] for row in graph.TRUTH["active-users"](tenant)}
    assert names
    assert all(len(name) == 32 and "@" not in name for name in names)


def test_replayed_rows_and_empty_pages_lose_nothing(client: httpx.Client, tenant: Tenant) -> None:
    tenant.settings |= {"replayed_rows": 3, "empty_pages": 2}
    shown = [page["value"] for page in pages(client, "/v1.0/users?$select=id&$top=60")]
    assert [] in shown
    found = [row["id"] for value in shown for row in value]
    assert len(found) > len(set(found))
    assert set(found) == set(tenant.people)


def test_people_who_stay_are_given_whatever_happens_between_pages(client: httpx.Client, tenant: Tenant) -> None:
    stay = set(sorted(tenant.people)[::2])
    found: list[str] = []
    for page in pages(client, "/v1.0/users?$select=id&$top=30"):
        found += [row["id"] for row in page["value"]]
        for person_id in [p for p in tenant.people if p not in stay][:20]:
            del tenant.people[person_id]
        tenant.sequence += 1
    assert stay <= set(found)
    assert len(found) == len(set(found))
