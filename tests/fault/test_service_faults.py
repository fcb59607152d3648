"""Every misbehaviour of the services, on every route that matters: rows are complete, or it is said what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from stage import Clock
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
COUNT = ("entra.users", "users")
FURTHER = [
    ("reports.active-users", "report-download"),
    ("entra.group-owners", "batch"),
    ("exchange.mailbox-statistics", "exchange.batch"),
    COUNT,
]
"""Routes beside those in `ROUTES` that a dataset goes through."""
AFTER = {"users-delta": 1, "exchange.get-mailbox": 1}
"""Where not the first page meets the fault but the second."""


class Kind(NamedTuple):
    """A fault, how long it is waited after its first time, and why a collection ends that it befalls for ever."""

    kind: str
    options: dict[str, Any]
    waited: float
    reason: str


WIRE = [
    Kind("throttle", {"retry_after": 3}, 3.0, "throttled"),
    Kind("throttle", {"retry_after": "2.5"}, 2.5, "throttled"),
    Kind("throttle", {"retry_after": None}, 1.0, "throttled"),
    Kind("error", {"status": 500}, 1.0, "unavailable"),
    Kind("error", {"status": 503, "retry_after": 4}, 4.0, "unavailable"),
    Kind("reset", {}, 1.0, "unavailable"),
    Kind("cut", {}, 1.0, "unavailable"),
    Kind("slow", {}, 1.0, "unavailable"),
]
ODD_BODIES = [Kind("error-in-200", {}, 1.0, "unavailable"), Kind("nul-body", {}, 1.0, "protocol")]
TRANSIENT = Kind("transient", {}, 1.0, "unavailable")
SERVER = ["onprem.mailboxes", "onprem.receive-connectors"]
DENIED = {
    "exchange.get-mailbox": ("truncated", "not-permitted"),
    "exchange.get-mailboxstatistics": ("truncated", "items-refused"),
}
"""How a dataset ends that is denied in the middle; one that is denied at once is not possible."""
LASTING = ["entra.users", "audit.sign-ins", "exchange.mailboxes", "entra.group-owners"]
SHORT = Patience(attempts=3, seconds=20.0)
"""So that the clock of the collection stays near the simulator's: sign-ins go on."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(World()) as running:
        yield running


@pytest.fixture
def studio(simulator: Simulator) -> Studio:
    return Studio(simulator)


def kinds_of(route: str) -> list[Kind]:
    """What can go wrong on a route and has to be mended by asking again."""
    if route == COUNT[1]:
        return WIRE
    if route == "active-users-report":
        return [kind for kind in WIRE if kind.kind != "cut"] + ODD_BODIES
    return [*WIRE, *ODD_BODIES, *([TRANSIENT] if route.startswith("exchange") else [])]


def is_denied(route: str, kind: str) -> bool:
    """Exchange answers whoever lacks a role with a body of NULs."""
    return kind == "nul-body" and route.startswith("exchange")


def each(routes: Iterable[tuple[str, str]]) -> list[object]:
    """Each kind on each route."""
    return [
        pytest.param(name, route, kind, id="-".join([route, kind.kind, *map(str, kind.options.values())]))
        for name, route in routes
        for kind in kinds_of(route)
    ]


def wanted(name: str) -> list[str]:
    return [PARENTS[name], name] if name in PARENTS else [name]


def test_where_nothing_goes_wrong_nobody_waits(studio: Studio) -> None:
    found = studio.collect(*ROUTES, *SERVER)

    assert by_outcome(found) == dict.fromkeys([*ROUTES, *SERVER], ("complete", None))
    assert studio.waited == []


@pytest.mark.parametrize(("name", "route", "kind"), each([*ROUTES.items(), *FURTHER]))
def test_a_passing_fault_costs_no_row(studio: Studio, name: str, route: str, kind: Kind) -> None:
    studio.fail(route, kind.kind, times=1 if kind.kind == "slow" else 2, after=AFTER.get(route, 0), **kind.options)

    found = studio.collect(*wanted(name))[name]

    if is_denied(route, kind.kind):
        assert (found.outcome, found.reason) == DENIED.get(route, ("not-possible", "not-permitted"))
        return
    assert (found.outcome, found.reason) == ("complete", None)
    assert kind.waited in studio.waited
    assert studio.differences(name) == []


@pytest.mark.parametrize("kind", ["error-in-200", "nul-body"])
def test_a_count_that_is_no_number_costs_the_count_alone(studio: Studio, kind: str) -> None:
    studio.fail("users", kind)

    assert studio.collect("entra.users")["entra.users"].outcome == "complete"

    assert studio.differences("entra.users") == []
    assert studio.completed("entra.users").expected is None
    studio.collect("entra.users", full=True)
    assert studio.completed("entra.users").expected == len(studio.tenant.people)


def test_a_redirect_whose_body_is_cut_off_is_followed(studio: Studio) -> None:
    """It says where to go before its body begins."""
    studio.fail("active-users-report", "cut")

    assert studio.collect("reports.active-users")["reports.active-users"].outcome == "complete"

    assert studio.answers("active-users-report") == [302]
    assert studio.differences("reports.active-users") == []


@pytest.mark.parametrize(
    ("name", "route", "kind"),
    each((name, ROUTES[name]) for name in LASTING),
)
def test_a_lasting_fault_is_never_called_complete_and_the_next_run_repairs_it(
    studio: Studio, name: str, route: str, kind: Kind
) -> None:
    studio.fail(route, kind.kind, times=None, after=1, **kind.options)

    found = studio.collect(*wanted(name), patience=SHORT)[name]

    of_an_item = (name, kind.kind) == ("entra.group-owners", "error-in-200")
    reason = "protocol" if of_an_item else kind.reason
    assert (found.outcome, found.reason) == (DENIED[route] if is_denied(route, kind.kind) else ("truncated", reason))
    studio.mend()
    assert studio.collect(*wanted(name))[name].outcome == "complete"
    assert studio.differences(name) == []


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("entra.users", "expired-page-token", 400),
        ("entra.users", "gone", 410),
        ("entra.groups", "expired-page-token", 400),
        ("entra.groups", "gone", 410),
        ("exchange.mailboxes", "expired-page-token", 400),
    ],
)
def test_a_page_link_that_expires_restarts_the_pass_and_counts_each_row_once(
    studio: Studio, name: str, kind: str, status: int
) -> None:
    studio.fail(ROUTES[name], kind, after=1)

    found = studio.collect(name)[name]

    assert found.outcome == "complete"
    assert studio.answers(ROUTES[name])[:3] == [200, status, 200]
    assert studio.happened(name)[:3] == ["CollectionStarted", "BatchRecorded", "CollectionRestarted"]
    assert studio.differences(name) == []


def test_a_page_link_of_a_log_that_expires_costs_its_window_alone(studio: Studio) -> None:
    studio.fail("sign-ins", "expired-page-token", after=1)

    found = studio.collect("audit.sign-ins")["audit.sign-ins"]

    assert found.outcome == "complete"
    assert studio.answers("sign-ins")[:3] == [200, 400, 200]
    assert "CollectionRestarted" not in studio.happened("audit.sign-ins")
    assert studio.differences("audit.sign-ins") == []


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


@pytest.mark.parametrize(
    ("name", "repeats"), [("entra.users", True), ("entra.groups", False), ("audit.sign-ins", True)]
)
def test_pages_that_are_empty_or_repeat_rows_change_nothing(studio: Studio, name: str, repeats: bool) -> None:
    """Of groups no row is repeated: a large one comes in portions."""
    studio.tenant.settings.update(empty_pages=2, replayed_rows=3)

    assert studio.collect(name)[name].outcome == "complete"

    assert len(studio.answers(ROUTES[name])) > studio.happened(name).count("BatchRecorded")
    assert (studio.completed(name).rows > len(studio.rows(name))) == repeats
    assert studio.differences(name) == []


@pytest.mark.parametrize(
    ("kind", "waited"),
    [("shell-lost", 2.0), ("reset", 2.0), ("cut", 2.0), ("error", 2.0), ("throttle", 30.0), ("slow", 2.0)],
)
@pytest.mark.parametrize("route", ["wsman", "psrp.get-mailbox"])
def test_a_passing_fault_of_an_exchange_server_costs_no_row(
    studio: Studio, route: str, kind: str, waited: float
) -> None:
    studio.fail(route, kind)

    found = studio.collect(*SERVER)

    assert by_outcome(found) == dict.fromkeys(SERVER, ("complete", None))
    assert studio.waited == [waited]
    assert [studio.differences(name) for name in SERVER] == [[], []]


def test_a_server_without_a_free_runspace_is_asked_again_after_half_a_minute(studio: Studio) -> None:
    studio.fail("wsman", "quota")

    found = studio.collect(*SERVER)

    assert by_outcome(found) == dict.fromkeys(SERVER, ("complete", None))
    assert studio.waited == [30.0]
    assert [studio.differences(name) for name in SERVER] == [[], []]


@pytest.mark.parametrize(("kind", "reason"), [("warning", "warned"), ("failed", "cmdlet-failed")])
def test_a_pipeline_that_warns_or_fails_leaves_a_truncated_dataset(studio: Studio, kind: str, reason: str) -> None:
    studio.fail("psrp.get-mailbox", kind, times=None, text="There are more results available than are displayed.")

    found = studio.collect(*SERVER)

    assert by_outcome(found) == {"onprem.mailboxes": ("truncated", reason), SERVER[1]: ("complete", None)}
    assert "more results available" in (found["onprem.mailboxes"].detail or "")


@pytest.mark.parametrize("kind", ["throttle", "error", "reset", "cut", "slow"])
def test_a_passing_fault_of_the_login_service_costs_nothing(studio: Studio, kind: str) -> None:
    studio.fail("token", kind, times=2)

    assert studio.collect("entra.users")["entra.users"].outcome == "complete"
    assert studio.waited == [2.0, 4.0]


@pytest.mark.parametrize("kind", ["throttle", "error", "reset", "cut", "slow"])
def test_a_login_service_that_does_not_answer_is_given_up_after_some_attempts(studio: Studio, kind: str) -> None:
    studio.fail("token", kind, times=None)

    found = studio.collect("entra.users")

    assert by_outcome(found) == {"entra.users": ("not-started", None)}
    assert (studio.last.state, studio.last.reason) == ("failed", "unavailable")
    assert studio.waited == [2.0, 4.0, 8.0]


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
    assert studio.account.bad_passwords == 1
    events = studio.stage.events(credential_stream(studio.id, EXCHANGE_SERVER))
    assert sum(isinstance(event, CredentialRejected) for event in events) == 1


@pytest.mark.parametrize(
    ("name", "route", "faster"),
    [
        ("entra.users", "users-delta", 1),
        ("entra.users", "users-delta", 10),
        ("entra.group-owners", "batch", 10),
        ("exchange.mailboxes", "exchange.get-mailbox", 10),
        ("exchange.mailbox-statistics", "exchange.batch", 10),
    ],
)
def test_a_token_that_runs_out_in_the_middle_is_renewed_and_no_row_is_lost(name: str, route: str, faster: int) -> None:
    """It is good for ten minutes, and the service asks to wait for twelve before a page: then it takes it no more.
    Where its clock is `faster` than ours, we learn that from its refusal alone."""
    clock = Clock(datetime.now(UTC).replace(microsecond=0))
    with Simulator(World(), now=lambda: clock.begin + faster * timedelta(seconds=clock.seconds)) as simulator:
        studio = Studio(simulator, clock)
        studio.tenant.settings["token_seconds"] = 600 * faster
        studio.fail(route, "throttle", after=1, retry_after=720)

        found = studio.collect(*wanted(name))

    assert found[name].outcome == "complete"
    assert studio.waited == [720.0]
    assert studio.sign_ins() == 2
    assert studio.differences(name) == []


@pytest.mark.parametrize("name", ["entra.users", "exchange.mailboxes"])
def test_a_token_that_is_refused_as_soon_as_it_is_given_is_not_asked_for_again_and_again(
    studio: Studio, name: str
) -> None:
    """Once as the run begins, once for the dataset, and once because it was refused."""
    studio.tenant.settings["token_seconds"] = 0

    found = studio.collect(name)

    assert by_outcome(found) == {name: ("truncated", "token-refused")}
    assert studio.sign_ins() == 3


def test_a_missing_permission_is_named_and_costs_its_dataset_alone(studio: Studio) -> None:
    studio.tenant.settings["missing_roles"] = ("Group.Read.All",)

    found = studio.collect("entra.users", "entra.groups", "entra.group-owners")

    assert by_outcome(found) == {
        "entra.users": ("complete", None),
        "entra.groups": ("not-possible", "not-permitted"),
        "entra.group-owners": ("not-possible", "parent-incomplete"),
    }
    assert "Group.Read.All" in (found["entra.groups"].detail or "")
