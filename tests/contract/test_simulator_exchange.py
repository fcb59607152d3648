"""The simulated Exchange admin API, as an HTTP client meets it."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator import exchange, mailboxes
from simulator.exchange_answers import duration
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import EXCHANGE, GRAPH, Fault, Tenant, World

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class Service:
    """A client of one tenant's Exchange."""

    simulator: Simulator
    tenant: Tenant
    client: httpx.Client

    @property
    def anchor(self) -> str:
        return f"APP:SystemMailbox{{bb558c35-97f1-4cb9-8ff7-d53741dc928c}}@{self.tenant.id}"

    def headers(self, resource: str = EXCHANGE, page_size: int = 1000, **others: str) -> dict[str, str]:
        token = self.simulator.issuer.issue(self.tenant.id, str(UUID(int=1)), resource, str(UUID(int=2)))
        return {
            "Authorization": f"Bearer {token}",
            "X-AnchorMailbox": self.anchor,
            "Prefer": f"odata.maxpagesize={page_size}",
            **others,
        }

    def url(self, select: str = "", version: str = "beta") -> str:
        query = f"?$select={select}" if select else ""
        return f"{self.simulator.url}/adminapi/{version}/{self.tenant.id}/InvokeCommand{query}"

    def call(self, name: str, *, select: str = "", page_size: int = 1000, **parameters: Any) -> httpx.Response:
        return self.client.post(
            self.url(select), json=command(name, parameters), headers=self.headers(page_size=page_size)
        )

    def walk(self, name: str, page_size: int, select: str = "", **parameters: Any) -> list[dict[str, Any]]:
        """The pages of a whole walk, in order."""
        pages, link, body = [], self.url(select), command(name, parameters)
        while link:
            answer = self.client.post(link, json=body, headers=self.headers(page_size=page_size))
            assert answer.status_code == 200, answer.text
            pages.append(answer.json())
            link = pages[-1].get("@odata.nextLink")
        return pages

    def fail(self, route: str, kind: str, **options: Any) -> None:
        after = options.pop("after", 0)
        self.simulator.world.faults[(self.tenant.id, route)] = [Fault(kind, after=after, options=options)]


def command(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"CmdletInput": {"CmdletName": name, "Parameters": parameters}}


def rows(pages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for page in pages for row in page["value"]]


def sentence(answer: httpx.Response) -> str:
    """Where the real message of an error is."""
    return str(answer.json()["error"]["innererror"]["internalexception"]["message"])


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator(World()) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def client(running: Simulator) -> Iterator[httpx.Client]:
    with httpx.Client(verify=ssl.create_default_context(cafile=str(running.ca_file))) as client:
        yield client


@pytest.fixture
def service(running: Simulator, client: httpx.Client) -> Iterator[Service]:
    tenant = populate(seed=5, name="contoso", users=1300, now=NOW)
    running.world.tenants[tenant.id] = tenant
    yield Service(running, tenant, client)
    running.world.tenants.clear()
    running.world.faults.clear()
    running.world.requests.clear()


def test_a_walk_of_posts_gives_every_mailbox_once(service: Service) -> None:
    pages = service.walk("Get-Mailbox", 500, ResultSize="Unlimited")
    assert len(pages) > 2
    assert rows(pages) == exchange.TRUTH["mailboxes"](service.tenant)
    assert all(page["@adminapi.warnings"] == [] for page in pages)


def test_rows_carry_their_annotations(service: Service) -> None:
    row = service.call("Get-Mailbox", ResultSize=1).json()["value"][0]
    assert row["ExchangeGuid@odata.type"] == "#Guid"
    assert row["ExchangeGuid@data.type"] == "System.Guid"
    assert row["EmailAddresses@odata.type"] == "#Collection(String)"
    assert row["WhenCreated@data.type"] == "System.DateTime"
    assert row["AuditLogAgeLimit"] == "90.00:00:00"
    assert row["ProhibitSendQuota"] == "99 GB (106,300,440,576 bytes)"


def test_rows_join_the_people_they_belong_to(service: Service) -> None:
    for row in exchange.TRUTH["mailboxes"](service.tenant):
        assert service.tenant.people[row["ExternalDirectoryObjectId"]].mailbox_guid == row["ExchangeGuid"]


def test_only_selected_properties_are_shown(service: Service) -> None:
    pages = service.walk("Get-Mailbox", 700, select="ExchangeGuid,Alias", ResultSize="Unlimited")
    assert {frozenset(row) for row in rows(pages)} == {
        frozenset({"ExchangeGuid", "ExchangeGuid@data.type", "ExchangeGuid@odata.type", "Alias"})
    }


def test_without_unlimited_a_thousand_rows_come_with_a_warning(service: Service) -> None:
    pages = service.walk("Get-Mailbox", 400)
    assert len(rows(pages)) == 1000
    assert [bool(page["@adminapi.warnings"]) for page in pages] == [False, False, True]


def test_the_page_size_that_was_applied_is_told(service: Service) -> None:
    answer = service.call("Get-Mailbox", page_size=25, ResultSize="Unlimited")
    assert answer.headers["Preference-Applied"] == "odata.maxpagesize=25"
    assert len(answer.json()["value"]) == 25


def test_a_link_is_no_link_to_get(service: Service) -> None:
    link = service.call("Get-Mailbox", page_size=10, ResultSize="Unlimited").json()["@odata.nextLink"]
    assert service.client.get(link, headers=service.headers()).status_code == 405


def test_a_link_may_be_posted_again(service: Service) -> None:
    body = command("Get-Mailbox", {"ResultSize": "Unlimited"})
    first = service.client.post(service.url(), json=body, headers=service.headers(page_size=10)).json()
    again = [
        service.client.post(first["@odata.nextLink"], json=body, headers=service.headers(page_size=10)).json()["value"]
        for _ in range(2)
    ]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("anchor", "parameters"),
    [("APP:other@fabrikam.example", {"ResultSize": "Unlimited"}), (None, {"ResultSize": "Unlimited"}), ("same", {})],
)
def test_a_link_wants_the_same_anchor_and_body(
    service: Service, anchor: str | None, parameters: dict[str, Any]
) -> None:
    link = service.call("Get-Mailbox", page_size=10, ResultSize="Unlimited").json()["@odata.nextLink"]
    headers = service.headers()
    del headers["X-AnchorMailbox"]
    if anchor:
        headers["X-AnchorMailbox"] = service.anchor if anchor == "same" else anchor
    answer = service.client.post(link, json=command("Get-Mailbox", parameters), headers=headers)
    assert answer.status_code == 400
    assert sentence(answer) == "Expired or Invalid pagination request. Default Expiry time is 00:30:00"


def test_a_link_expires(service: Service) -> None:
    body = command("Get-Mailbox", {"ResultSize": "Unlimited"})
    link = service.call("Get-Mailbox", page_size=10, ResultSize="Unlimited").json()["@odata.nextLink"]
    service.tenant.settings["exchange_page_seconds"] = -1
    assert service.client.post(link, json=body, headers=service.headers()).status_code == 400


def test_a_walk_shows_the_mailboxes_there_were_when_it_began(service: Service) -> None:
    body = command("Get-Mailbox", {"ResultSize": "Unlimited"})
    people = [person.id for person in mailboxes.cloud_people(service.tenant)]
    page = service.call("Get-Mailbox", page_size=800, ResultSize="Unlimited").json()
    del service.tenant.people[people[0]]
    service.tenant.sequence += 1
    rest = service.client.post(page["@odata.nextLink"], json=body, headers=service.headers()).json()
    assert [row["Identity"] for row in page["value"] + rest["value"]] == people


def test_version_one_takes_no_commands(service: Service) -> None:
    body = command("Get-Mailbox", {})
    assert service.client.post(service.url(version="v1.0"), json=body, headers=service.headers()).status_code == 405


def test_a_token_for_another_resource_or_tenant_is_refused(service: Service) -> None:
    body = command("Get-Mailbox", {})
    other = service.simulator.issuer.issue(str(UUID(int=9)), str(UUID(int=1)), EXCHANGE, str(UUID(int=2)))
    for headers in ({}, service.headers(GRAPH), service.headers(Authorization=f"Bearer {other}")):
        assert service.client.post(service.url(), json=body, headers=headers).status_code == 401


def test_without_a_role_the_answer_is_nul_bytes_that_say_they_are_gzip(service: Service) -> None:
    service.tenant.settings["exchange_role"] = False
    with service.client.stream(
        "POST", service.url(), json=command("Get-Mailbox", {}), headers=service.headers()
    ) as answer:
        assert answer.status_code == 403
        assert answer.headers["Content-Encoding"] == "gzip"
        assert set(b"".join(answer.iter_raw())) == {0}


@pytest.mark.parametrize(
    ("name", "parameters", "status", "detail"),
    [
        ("Get-Mailbox", {"Identity": "nobody"}, 404, ".ManagementObjectNotFoundException|"),
        ("Get-Teapot", {}, 400, "|System.Management.Automation.CommandNotFoundException|"),
        ("Get-Mailbox", {"Colour": "red"}, 400, ".ParameterBindingException|A parameter cannot be found"),
        ("Get-MailboxStatistics", {}, 400, "missing mandatory parameters: Identity"),
        ("Get-Mailbox", {"Identity": "a", "Anr": "b"}, 400, "|Microsoft.Exchange.AdminApi.CommandInvocation.Ambiguous"),
    ],
)
def test_an_error_hides_its_sentence_in_the_details(
    service: Service, name: str, parameters: dict[str, Any], status: int, detail: str
) -> None:
    answer = service.call(name, **parameters)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error["message"] == "Error executing cmdlet"
    assert detail in error["details"][0]["message"]
    assert sentence(answer) in error["details"][0]["message"]
    assert answer.headers["X-ExceptionType"].endswith("Exception")


def test_a_value_that_does_not_fit_has_no_details(service: Service) -> None:
    error = service.call("Get-Mailbox", ResultSize="many").json()["error"]
    assert "details" not in error
    assert error["innererror"]["internalexception"]["type"].endswith("ParameterTransformationException")


def test_a_wrong_recipient_type_finds_nothing_and_a_prefix_finds_some(service: Service) -> None:
    assert service.call("Get-Mailbox", RecipientTypeDetails=["Teapot"]).json()["value"] == []
    found = service.call("Get-Mailbox", RecipientTypeDetails=["Shared"], ResultSize="Unlimited").json()["value"]
    assert {row["RecipientTypeDetails"] for row in found} == {"SharedMailbox"}


def test_filters_by_letter_add_up_to_all_mailboxes(service: Service) -> None:
    edges = ["", "d", "m", "t", "\x7f"]
    parts = [
        service.walk("Get-Mailbox", 1000, Filter=f"Alias -ge '{low}' -and Alias -lt '{high}'", ResultSize="Unlimited")
        for low, high in pairwise(edges)
    ]
    everything = {row["Identity"] for row in exchange.TRUTH["mailboxes"](service.tenant)}
    assert sorted(row["Identity"] for pages in parts for row in rows(pages)) == sorted(everything)


def test_statistics_are_found_by_every_name_of_a_mailbox(service: Service) -> None:
    person = mailboxes.cloud_people(service.tenant)[3]
    truth = next(
        row for row in exchange.TRUTH["mailbox-statistics"](service.tenant) if row["MailboxGuid"] == person.mailbox_guid
    )
    for identity in (person.id, person.mailbox_guid, person.upn, person.mail.upper()):
        assert service.call("Get-MailboxStatistics", Identity=identity).json()["value"] == [truth]
    assert truth["TotalItemSize"].endswith(f"({person.mailbox_bytes:,} bytes)")


def test_an_archive_is_shown_only_where_there_is_one(service: Service) -> None:
    people = mailboxes.cloud_people(service.tenant)
    with_archive = next(person for person in people if mailboxes.has_archive(person))
    without = next(person for person in people if not mailboxes.has_archive(person))
    shown = service.call("Get-MailboxStatistics", Identity=with_archive.id, Archive=True).json()["value"]
    assert [row["IsArchiveMailbox"] for row in shown] == [True]
    assert service.call("Get-MailboxStatistics", Identity=without.id, Archive=True).status_code == 404


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("transport-rules", "Get-TransportRule"),
        ("accepted-domains", "Get-AcceptedDomain"),
        ("organization-config", "Get-OrganizationConfig"),
    ],
)
def test_settings_of_the_organisation_are_shown_whole(service: Service, dataset: str, name: str) -> None:
    shown = service.call(name).json()["value"]
    assert shown == exchange.TRUTH[dataset](service.tenant)
    assert shown


def test_a_batch_answers_each_item_in_an_order_of_its_own(service: Service) -> None:
    people = mailboxes.cloud_people(service.tenant)[:9]
    items = [
        {
            "id": str(n),
            "method": "POST",
            "url": service.url(),
            "body": command("Get-MailboxStatistics", {"Identity": p.id}),
        }
        for n, p in enumerate(people)
    ]
    items.append({**items[0], "id": "9", "body": command("Get-MailboxStatistics", {"Identity": "nobody"})})
    service.fail("exchange.get-mailboxstatistics", "throttle", after=4, retry_after=7)
    url = f"{service.simulator.url}/adminapi/beta/{service.tenant.id}/$batch"
    answer = service.client.post(url, json={"requests": items}, headers=service.headers())
    by_id = {item["id"]: item for item in answer.json()["responses"]}
    assert [item["id"] for item in answer.json()["responses"]] != sorted(by_id)
    assert [by_id[str(n)]["status"] for n in range(10)] == [200, 200, 200, 200, 429, 200, 200, 200, 200, 404]
    assert by_id["4"]["headers"]["Retry-After"] == "7"
    assert by_id["2"]["body"]["value"][0]["MailboxGuid"] == people[2].mailbox_guid


def test_a_batch_of_more_than_twenty_is_refused(service: Service) -> None:
    item = {"id": "1", "method": "POST", "url": service.url(), "body": command("Get-AcceptedDomain", {})}
    url = f"{service.simulator.url}/adminapi/beta/{service.tenant.id}/$batch"
    for count, status in ((20, 200), (21, 400)):
        answer = service.client.post(url, json={"requests": [item] * count}, headers=service.headers())
        assert answer.status_code == status


def test_too_many_requests_at_once_are_told_so(service: Service) -> None:
    service.tenant.settings["exchange_concurrency"] = 0
    answer = service.call("Get-AcceptedDomain")
    assert answer.status_code == 429
    assert sentence(answer).startswith("You have reached the maximum number of concurrent requests per tenant.")


def test_what_is_left_of_the_rate_is_told_when_it_is_switched_on(service: Service) -> None:
    assert "Rate-Limit-Limit" not in service.call("Get-AcceptedDomain").headers
    service.tenant.settings["exchange_rate_headers"] = True
    used = 30_000 - int(service.call("Get-AcceptedDomain").headers["Rate-Limit-Remaining"])
    service.tenant.settings["exchange_rate_limit"] = used + 2
    headers = [service.call("Get-AcceptedDomain").headers for _ in range(3)]
    assert [answer["Rate-Limit-Remaining"] for answer in headers] == ["1", "0", "0"]
    assert headers[2]["Retry-After"]
    assert datetime.fromisoformat(headers[0]["Rate-Limit-Reset"]) > datetime.now(UTC)


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("transient", 400, "TransientException"),
        ("error-in-200", 200, "ServerBusyException"),
        ("throttle", 429, "TooManyRequests"),
        ("error", 503, "ServiceUnavailable"),
    ],
)
def test_a_fault_is_taken_once(service: Service, kind: str, status: int, text: str) -> None:
    service.fail("exchange.get-accepteddomain", kind)
    answer = service.call("Get-AcceptedDomain")
    assert answer.status_code == status
    assert text in answer.text
    assert "error" in answer.json()
    assert service.call("Get-AcceptedDomain").json()["value"]


def test_an_expired_page_ends_its_walk_and_a_new_one_is_whole(service: Service) -> None:
    service.fail("exchange.get-mailbox", "expired-page-token", after=1)
    body = command("Get-Mailbox", {"ResultSize": "Unlimited"})
    link = service.call("Get-Mailbox", page_size=500, ResultSize="Unlimited").json()["@odata.nextLink"]
    for _ in range(2):
        assert service.client.post(link, json=body, headers=service.headers()).status_code == 400
    assert rows(service.walk("Get-Mailbox", 500, ResultSize="Unlimited")) == exchange.TRUTH["mailboxes"](service.tenant)


def test_a_warning_comes_at_the_end_of_the_walk(service: Service) -> None:
    service.fail("exchange.get-mailbox", "warning", text="A domain controller did not answer.")
    pages = service.walk("Get-Mailbox", 500, ResultSize="Unlimited")
    assert [page["@adminapi.warnings"] for page in pages][-2:] == [[], ["A domain controller did not answer."]]


def test_requests_are_noted_by_cmdlet(service: Service) -> None:
    service.call("Get-AcceptedDomain")
    assert service.simulator.world.requests[-1][1] == "exchange.get-accepteddomain"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"CmdletInput": {"CmdletName": 7}}', secrets.token_bytes(64)])
def test_a_body_that_is_no_command_is_refused(service: Service, content: bytes) -> None:
    assert service.client.post(service.url(), content=content, headers=service.headers()).status_code == 400


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(page_size=st.integers(1, 60), limit=st.integers(0, 200))
def test_pages_of_any_size_add_up_to_the_result(service: Service, page_size: int, limit: int) -> None:
    pages = service.walk("Get-Mailbox", page_size, select="Identity", ResultSize=limit)
    assert [row["Identity"] for row in rows(pages)] == [p.id for p in mailboxes.cloud_people(service.tenant)[:limit]]


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_duration_reads_back(value: timedelta) -> None:
    days, _, clock = duration(value).rpartition(".")
    hours, minutes, rest = (int(part) for part in clock.split(":"))
    assert timedelta(int(days or 0), rest, minutes=minutes, hours=hours) == value - timedelta(
        microseconds=value.microseconds
    )
