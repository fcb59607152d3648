"""Every misbehaviour of the services, on every route that matters: rows are complete, or it is said what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from studio import Studio, by_outcome

from collectors.transport import Patience
from domain.events import CredentialRejected
from domain.ids import EXCHANGE_SERVER, credential_stream
from simulator.population import change
from simulator.server import Simulator
from simulator.world import SignInState, World

ROUTES = {
    "entra.organization": "organization",
    "entra.users": "users-delta",
    "entra.groups": "groups-delta",
    "entra.subscribed-skus": "subscribed-skus",
    "entra.group-owners": "group-owners",
    "audit.sign-ins": "sign-ins",
    "reports.active-users": "active-users-report",
    "exchange.mailboxes": "exchange.get-mailbox",
    "exchange.mailbox-statistics": "exchange.get-mailboxstatistics",
    "exchange.transport-rules": "exchange.get-transportrule",
}
PARENTS = {"entra.group-owners": "entra.groups", "exchange.mailbox-statistics": "exchange.mailboxes"}
FURTHER = [
    ("reports.active-users", "report-download"),
    ("entra.group-owners", "batch"),
    ("exchange.mailbox-statistics", "exchange.batch"),
    ("entra.users", "users"),
]
"""Routes beside those in `ROUTES` that a dataset goes through."""
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("throttle", {"retry_after": 3}),
    ("throttle", {"retry_after": "2.5"}),
    ("throttle", {"retry_after": None}),
    ("error", {"status": 500}),
    ("error", {"status": 503, "retry_after": 4}),
    ("reset", {}),
    ("cut", {}),
    ("slow", {"seconds": 0.05}),
    ("error-in-200", {}),
    ("nul-body", {}),
    ("transient", {}),
]
SERVER = ["onprem.mailboxes", "onprem.receive-connectors"]
REFUSALS = ("not-permitted", "not-consented")
SHORT = Patience(attempts=3)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(World()) as running:
        yield running


@pytest.fixture
def studio(simulator: Simulator) -> Studio:
    return Studio(simulator)


def passing() -> Iterator[object]:
    """Each kind on each route."""
    for name, route in [*ROUTES.items(), *FURTHER]:
        for kind, options in KINDS:
            yield pytest.param(name, route, kind, options)


def wanted(name: str) -> list[str]:
    return [PARENTS[name], name] if name in PARENTS else [name]


@pytest.mark.parametrize(("name", "route", "kind", "options"), list(passing()))
def test_a_passing_fault_costs_no_row(
    studio: Studio, name: str, route: str, kind: str, options: dict[str, Any]
) -> None:
    studio.fail(route, kind, times=2, after=1 if name in {"entra.users", "exchange.mailboxes"} else 0, **options)

    found = studio.collect(*wanted(name))[name]

    if (kind, found.outcome) == ("nul-body", "not-possible"):
        assert found.reason in REFUSALS, "Exchange answers a refusal with a body of NULs"
        return
    assert (found.outcome, found.reason) == ("complete", None)
    assert studio.differences(name) == []


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("name", ["entra.users", "audit.sign-ins", "exchange.mailboxes", "entra.group-owners"])
def test_a_lasting_fault_is_never_called_complete_and_the_next_run_repairs_it(
    studio: Studio, name: str, kind: str, options: dict[str, Any]
) -> None:
    studio.fail(ROUTES[name], kind, times=None, after=1, **options)

    found = studio.collect(*wanted(name), patience=SHORT)[name]

    harmless = kind == "slow" or (kind == "transient" and not name.startswith("exchange"))
    assert (found.outcome == "complete") == harmless
    assert found.reason in {None, "throttled", "unavailable", "protocol", "items-failed", *REFUSALS}
    studio.simulator.world.faults.clear()
    assert studio.collect(*wanted(name))[name].outcome == "complete"
    assert studio.differences(name) == []


@pytest.mark.parametrize("kind", ["expired-page-token", "gone"])
@pytest.mark.parametrize("name", ["entra.users", "entra.groups", "audit.sign-ins", "exchange.mailboxes"])
def test_a_page_link_that_expires_restarts_the_pass_and_counts_each_row_once(
    studio: Studio, name: str, kind: str
) -> None:
    studio.fail(ROUTES[name], kind, after=1)

    found = studio.collect(name)[name]

    assert found.outcome == "complete"
    assert studio.differences(name) == []


@pytest.mark.parametrize("kind", ["expired-page-token", "gone"])
def test_page_links_that_always_expire_truncate_the_pass(studio: Studio, kind: str) -> None:
    studio.fail("users-delta", kind, times=None, after=1)

    found = studio.collect("entra.users")["entra.users"]

    assert (found.outcome, found.reason) == ("truncated", "restarted-too-often")


def test_a_delta_link_that_is_gone_is_replaced_by_everything(studio: Studio) -> None:
    names = ("entra.users", "entra.groups")
    studio.collect(*names)
    change(studio.tenant, 0.2)
    studio.fail("users-delta", "gone")
    studio.fail("groups-delta", "expired-page-token")

    found = studio.collect(*names)

    assert {one.outcome for one in found.values()} == {"complete"}
    assert {name: studio.differences(name) for name in names} == {"entra.users": [], "entra.groups": []}


def test_pages_that_are_empty_or_repeat_rows_change_nothing(studio: Studio) -> None:
    studio.tenant.settings.update(empty_pages=2, replayed_rows=3)

    studio.collect("entra.users", "entra.groups", "audit.sign-ins")

    rows = [row["id"] for row in studio.rows("entra.users")]
    assert sorted(str(one) for one in rows) == sorted(studio.tenant.people)


@pytest.mark.parametrize("kind", ["shell-lost", "reset", "cut", "error", "throttle", "quota", "slow"])
@pytest.mark.parametrize("route", ["wsman", "psrp.get-mailbox"])
def test_a_passing_fault_of_an_exchange_server_costs_no_row(studio: Studio, route: str, kind: str) -> None:
    studio.fail(route, kind, times=1, seconds=0.05)

    found = studio.collect(*SERVER)

    assert by_outcome(found) == dict.fromkeys(SERVER, ("complete", None))
    assert [studio.differences(name) for name in SERVER] == [[], []]


@pytest.mark.parametrize(("kind", "reason"), [("warning", "warned"), ("failed", "failed")])
def test_a_pipeline_that_warns_or_fails_leaves_a_truncated_dataset(studio: Studio, kind: str, reason: str) -> None:
    studio.fail("psrp.get-mailbox", kind, times=None, text="There are more results available than are displayed.")

    found = studio.collect(*SERVER)

    assert found["onprem.mailboxes"].outcome in {"truncated", "not-possible"}
    assert found["onprem.receive-connectors"].outcome == "complete"


@pytest.mark.parametrize("kind", ["throttle", "error", "reset", "cut", "slow"])
def test_a_passing_fault_of_the_login_service_costs_nothing(studio: Studio, kind: str) -> None:
    studio.fail("token", kind, times=2, seconds=0.05)

    assert studio.collect("entra.users")["entra.users"].outcome == "complete"


@pytest.mark.parametrize(
    ("code", "category"),
    [(50126, "wrong"), (50053, "locked"), (90002, "tenant"), (65001, "consented"), (53003, "Access")],
)
def test_a_sign_in_is_refused_once_with_what_to_do_about_it(studio: Studio, code: int, category: str) -> None:
    studio.fail("token", "aadsts", times=None, code=code)

    found = studio.collect("entra.organization", "entra.users", "exchange.mailboxes")

    assert studio.last.state == "failed"
    assert studio.last.reason == f"AADSTS{code}"
    assert category in studio.last.detail
    assert {one.outcome for one in found.values()} == {"not-started"}
    assert studio.sign_ins() == 1


@pytest.mark.parametrize("state", [state for state in SignInState if state is not SignInState.OK])
def test_an_application_that_may_not_sign_in_collects_nothing_and_tries_once(
    studio: Studio, state: SignInState
) -> None:
    studio.app.state = state

    studio.collect("entra.users", "exchange.mailboxes")

    assert studio.last.state == "failed"
    assert studio.last.reason.startswith("AADSTS")
    assert studio.sign_ins() == 1


@pytest.mark.parametrize("trouble", ["wrong", "expired"])
def test_a_bad_secret_is_tried_once(studio: Studio, trouble: str) -> None:
    known = studio.app.secrets.pop()
    past = studio.stage.clock.now() - timedelta(days=1)
    studio.app.secrets.append(type(known)("another" if trouble == "wrong" else known.value, past))

    studio.collect("entra.users", "exchange.mailboxes")

    assert studio.last.reason == {"wrong": "AADSTS7000215", "expired": "AADSTS7000222"}[trouble]
    assert "tenantry credential set" in studio.last.detail or "Add a new one" in studio.last.detail
    assert studio.sign_ins() == 1


def test_an_exchange_server_account_with_a_wrong_password_is_tried_once(studio: Studio) -> None:
    studio.account.password = "changed"

    found = studio.collect("entra.users", *SERVER)

    assert by_outcome(found) == {
        "entra.users": ("complete", None),
        **dict.fromkeys(SERVER, ("not-possible", "sign-in-refused")),
    }
    assert studio.account.bad_passwords <= 1
    events = studio.stage.events(credential_stream(studio.id, EXCHANGE_SERVER))
    assert sum(isinstance(event, CredentialRejected) for event in events) == 1


def test_a_token_that_runs_out_in_the_middle_is_renewed_and_no_row_is_lost(studio: Studio) -> None:
    studio.tenant.settings["token_seconds"] = 0

    found = studio.collect("entra.organization")

    assert by_outcome(found) == {"entra.organization": ("truncated", "token-refused")}
    studio.tenant.settings["token_seconds"] = 3599
    assert studio.collect("entra.users")["entra.users"].outcome == "complete"
    assert studio.differences("entra.users") == []


def test_a_missing_permission_is_named_and_costs_its_dataset_alone(studio: Studio) -> None:
    studio.tenant.settings["missing_roles"] = ("Group.Read.All",)

    found = studio.collect("entra.users", "entra.groups", "entra.group-owners")

    assert by_outcome(found) == {
        "entra.users": ("complete", None),
        "entra.groups": ("not-possible", "not-permitted"),
        "entra.group-owners": ("not-possible", "parent-incomplete"),
    }
    assert "Group.Read.All" in (found["entra.groups"].detail or "")
