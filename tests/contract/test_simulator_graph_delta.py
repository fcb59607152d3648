"""Delta rounds of the simulated directory, folded by a client that knows nothing but the documented rules."""

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator import graph
from simulator.population import change, populate
from simulator.server import Simulator
from simulator.world import GRAPH, Fault, Group, Tenant, World

NOW = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
NAMES = ("id", "displayName", "jobTitle", "city", "accountEnabled", "assignedLicenses", "manager@delta")
USERS = "/v1.0/users/delta?$select=displayName,jobTitle,city,accountEnabled,assignedLicenses,manager"
GROUPS = "/v1.0/groups/delta?$select=id,displayName,members"


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
def client(m365: Simulator) -> Iterator[httpx.Client]:
    trust = ssl.create_default_context(cafile=str(m365.ca_file))
    with httpx.Client(base_url=m365.url, verify=trust) as made:
        yield made


@dataclass
class Folder:
    """A naive client: follows links, upserts what comes, drops what is marked as removed."""

    client: httpx.Client
    token: str
    page_size: int = 200
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    pages: int = 0
    between_pages: Callable[[], object] = lambda: None

    def get(self, url: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", "Prefer": f"odata.maxpagesize={self.page_size}"}
        return self.client.get(url, headers=headers)

    def answers(self, url: str) -> Iterator[dict[str, Any]]:
        following: str | None = url
        while following is not None:
            response = self.get(following)
            assert response.status_code == 200, response.text
            self.pages += 1
            yield response.json()
            following = response.json().get("@odata.nextLink")

    def fold_users(self, url: str) -> str:
        return self.fold(url, self.users, lambda row: self.users.__setitem__(row["id"], row))

    def fold_groups(self, url: str) -> str:
        return self.fold(url, self.members, self._group)

    def fold(self, url: str, kept: dict[str, Any], upsert: Any) -> str:
        answer: dict[str, Any] = {}
        for answer in self.answers(url):
            for row in answer["value"]:
                if "@removed" in row:
                    kept.pop(row["id"], None)
                else:
                    upsert(row)
            self.between_pages()
        return str(answer["@odata.deltaLink"])

    def _group(self, row: dict[str, Any]) -> None:
        members = self.members.setdefault(row["id"], set())
        for member in row.get("members@delta", ()):
            (members.discard if "@removed" in member else members.add)(member["id"])

    def assert_is(self, tenant: Tenant) -> None:
        truth = [{name: row[name] for name in NAMES} for row in graph.TRUTH["users"](tenant)]
        assert [self.users[key] for key in sorted(self.users)] == truth
        pairs = [{"groupId": g, "id": p} for g in sorted(self.members) for p in sorted(self.members[g])]
        assert pairs == graph.TRUTH["group-members"](tenant)
        assert set(self.members) == set(tenant.groups)


def folder(m365: Simulator, client: httpx.Client, users: int = 60, **options: Any) -> tuple[Tenant, Folder]:
    tenant = populate(seed=users, name="Litware", users=users, now=NOW)
    tenant.settings |= {"throttle": False, **options}
    m365.world.tenants = {tenant.id: tenant}
    m365.world.faults = {}
    return tenant, Folder(client, m365.issuer.issue(tenant.id, "app", GRAPH, "principal"))


def regroup(tenant: Tenant, number: int) -> None:
    """One group goes, and one with members comes."""
    tenant.sequence += 1
    gone = sorted(tenant.groups)[number % len(tenant.groups)]
    del tenant.groups[gone]
    tenant.removed_groups[gone] = tenant.sequence
    made = f"aaaaaaaa-0000-4000-8000-{tenant.sequence:012d}"
    people = sorted(tenant.people)[number % 7 :: 3]
    tenant.groups[made] = Group(
        made, "New", None, "security", NOW, set(people), (), changed=tenant.sequence, born=tenant.sequence
    )


def disturbing(tenant: Tenant, fraction: float, times: int) -> Callable[[], object]:
    """What makes a change of the tenant the first `times` it is called, if there is a fraction to change."""
    left = iter([fraction] * times if fraction else [])

    def disturb() -> None:
        for one in left:
            change(tenant, one)
            return

    return disturb


CHANGES = st.one_of(
    st.sampled_from([0.0, 0.02, 0.1, 0.5]).map(lambda fraction: ("change", fraction)),
    st.integers(0, 50).map(lambda number: ("regroup", number)),
    st.sampled_from([0.0, 0.1]).map(lambda fraction: ("round", fraction)),
)


@given(
    changes=st.lists(CHANGES, max_size=10),
    page_size=st.sampled_from([3, 7, 40, 999]),
    options=st.fixed_dictionaries(
        {
            "members_page_size": st.sampled_from([2, 5, 1_000]),
            "replayed_rows": st.sampled_from([0, 2]),
            "empty_pages": st.sampled_from([0, 3]),
        }
    ),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changes_between_and_during_rounds_fold_to_the_truth(
    m365: Simulator, client: httpx.Client, changes: list[tuple[str, Any]], page_size: int, options: dict[str, int]
) -> None:
    tenant, naive = folder(m365, client, users=30, **options)
    naive.page_size = page_size
    users, groups = naive.fold_users(USERS), naive.fold_groups(GROUPS)
    for kind, value in [*changes, ("round", 0.1), ("round", 0)]:
        if kind == "change":
            change(tenant, value)
        elif kind == "regroup":
            regroup(tenant, value)
        else:
            naive.between_pages = disturbing(tenant, value, times=2)
            users, groups = naive.fold_users(users), naive.fold_groups(groups)
            if not value:
                naive.assert_is(tenant)


def test_the_second_round_is_as_small_as_the_change(m365: Simulator, client: httpx.Client) -> None:
    tenant, naive = folder(m365, client, users=400)
    link = naive.fold_users(USERS)
    assert naive.pages == 2
    counts = change(tenant, 0.02)
    (answer,) = naive.answers(link)
    removed = [row for row in answer["value"] if "@removed" in row]
    assert len(removed) == counts["removed"] > 0
    assert {row["@removed"]["reason"] for row in removed} <= {"changed", "deleted"}
    assert len(answer["value"]) < 40


def test_a_large_group_stands_on_several_pages(m365: Simulator, client: httpx.Client) -> None:
    tenant, naive = folder(m365, client, users=300, members_page_size=100)
    everyone = max(tenant.groups.values(), key=lambda group: len(group.member_ids))
    shown = [row for answer in naive.answers(GROUPS) for row in answer["value"] if row["id"] == everyone.id]
    assert len(shown) >= 3
    assert max(len(row["members@delta"]) for row in shown) <= 100
    assert shown[0]["members@delta"][0]["@odata.type"] == "#microsoft.graph.user"
    assert {member["id"] for row in shown for member in row["members@delta"]} == everyone.member_ids


def test_groups_without_members_asked_for_change_without_them(m365: Simulator, client: httpx.Client) -> None:
    _, naive = folder(m365, client)
    answers = list(naive.answers("/v1.0/groups/delta?$select=displayName"))
    assert all(set(row) == {"id", "displayName"} for answer in answers for row in answer["value"])


def test_the_latest_link_gives_no_rows_and_then_only_what_follows(m365: Simulator, client: httpx.Client) -> None:
    tenant, naive = folder(m365, client)
    (answer,) = naive.answers(f"{USERS}&$deltatoken=latest")
    assert answer["value"] == []
    change(tenant, 0.1)
    naive.fold_users(answer["@odata.deltaLink"])
    assert 0 < len(naive.users) < 60


def test_a_gone_link_points_to_the_start_of_the_same_query(m365: Simulator, client: httpx.Client) -> None:
    tenant, naive = folder(m365, client)
    link = naive.fold_users(USERS)
    m365.world.faults[tenant.id, "users-delta"] = [Fault("gone")]
    answer = naive.get(link)
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "resyncRequired")
    assert "$deltatoken=&" in answer.headers["location"]
    naive.users.clear()
    naive.fold_users(answer.headers["location"])
    naive.fold_groups(GROUPS)
    naive.assert_is(tenant)


@pytest.mark.parametrize(("kind", "status"), [("gone", 410), ("expired-page-token", 400)])
def test_a_fault_on_a_first_page_dooms_the_link_it_gives(
    m365: Simulator, client: httpx.Client, kind: str, status: int
) -> None:
    tenant, naive = folder(m365, client)
    naive.page_size = 20
    m365.world.faults[tenant.id, "users-delta"] = [Fault(kind)]
    link = naive.get(USERS).json()["@odata.nextLink"]
    assert [naive.get(link).status_code for _ in range(2)] == [status, status]
    naive.fold_users(USERS)


def test_a_delta_link_is_forgotten_after_seven_days(m365: Simulator, client: httpx.Client, clock: Clock) -> None:
    tenant, naive = folder(m365, client)
    link = naive.fold_users(USERS)
    clock.now += timedelta(days=8)
    naive.token = m365.issuer.issue(tenant.id, "app", GRAPH, "principal")
    answer = naive.get(link)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "syncStateNotFound")


def test_a_link_from_the_future_of_a_restarted_service_is_gone(m365: Simulator, client: httpx.Client) -> None:
    tenant, naive = folder(m365, client)
    change(tenant, 0.1)
    link = naive.fold_users(USERS)
    folder(m365, client)
    assert naive.get(link).status_code == 410


@pytest.mark.parametrize(("preferred", "shown"), [(0, 25), (30, 30), (5_000, 60)])
def test_a_preferred_page_size_is_honoured_up_to_its_maximum(
    m365: Simulator, client: httpx.Client, preferred: int, shown: int
) -> None:
    _, naive = folder(m365, client, delta_page_size=25)
    naive.page_size = preferred
    answer = naive.get(USERS)
    assert len(answer.json()["value"]) == shown
    assert ("preference-applied" in answer.headers) is (preferred > 0)
