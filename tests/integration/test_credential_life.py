"""The life of a credential from the command line: tried, replaced, refused, locked, expiring."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from estate import Estate
from office import Office, at_work, collected, furnished, kinds

from cli.collect import report
from cli.command import Session
from cli.config import load
from cli.forecast import announce
from cli.main import main
from cli.output import new_console
from cli.state import PUBLIC_KEY_FILE
from cli.turn import turn
from cli.views import runs_by_id
from crypto.credential import AppSecret
from domain.events import (
    CredentialExpiring,
    CredentialRejected,
    CredentialReleased,
    CredentialRotated,
    CredentialSealed,
    ReleaseDenied,
    RunRequested,
    RunStarted,
)
from domain.ids import ENTRA, EXCHANGE_SERVER, Dataset, RunId, TenantId, credential_stream, run_stream
from simulator.world import GRAPH, Fault, SignInState, World

RUN = RunId("20261122T203000-0a1b2c3d")


@dataclass(slots=True)
class Watched(World):
    """Looks at something whenever a sign-in has arrived and is not answered yet, and keeps what it saw."""

    look: Callable[[], list[str]] = list
    seen: list[list[str]] = field(default_factory=list)

    def take_fault(self, tenant: str, route: str, kinds: Collection[str]) -> Fault | None:
        if route == "token":
            self.seen.append(self.look())
        return World.take_fault(self, tenant, route, kinds)


@pytest.fixture(scope="module")
def world() -> Watched:
    return Watched()


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory, world: Watched) -> Iterator[Estate]:
    with furnished(tmp_path_factory.mktemp("office"), world) as made:
        yield made


@pytest.fixture
def office(
    estate: Estate, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Office:
    return at_work(estate, tmp_path, capsys, monkeypatch)


def test_a_verification_signs_in_once_to_each_service_and_shows_what_it_may_read(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret", exchange_server=True)

    said = office.type("credential", "verify", tenant.id, "--json")

    assert (said.code, said.err) == (0, "")
    found = said.json
    assert [(one["resource"], one["outcome"], one["readable"]) for one in found["resources"]] == [
        ("graph", "verified", True),
        ("exchange", "verified", True),
        ("exchange-server", "verified", True),
    ]
    assert "User.Read.All" in found["resources"][0]["permissions"]
    assert found["resources"][0]["directory_roles"] == ["Global Reader"]
    assert {one["granted"] for one in found["datasets"]} == {"granted"}
    assert len(found["datasets"]) == 12
    assert found["licences"]
    assert office.asked(tenant) == 2
    assert kinds(office.events(tenant)) == ["Sealed", "Released", "Released", "Verified", "Verified"]
    assert kinds(office.events(tenant, EXCHANGE_SERVER)) == ["Sealed", "Released", "Verified"]


def test_a_slot_of_the_plan_that_holds_no_credential_is_told_with_what_to_do(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret", exchange_server=True)
    office.type("credential", "revoke", tenant.id, "--slot", "exchange-server", "--reason", "it was deleted")
    remedy = f"credential set {tenant.id} --slot exchange-server"

    said = office.type("credential", "verify", tenant.id)
    told = office.type("credential", "verify", tenant.id, "--json")
    entra = office.type("credential", "verify", tenant.id, "--slot", "entra", "--json")
    examined = office.type("doctor", tenant.id, "--json")

    assert said.code == told.code == examined.code == 3
    assert remedy in said.out.replace("\n", " ")
    assert told.json["without_credential"] == ["exchange-server"]
    assert (entra.code, entra.json["without_credential"]) == (0, [])
    found = {one["subject"]: one for one in examined.json if one["step"] == "credential"}
    assert found["exchange-server"]["outcome"] == "warning"
    assert remedy in found["exchange-server"]["remedy"]


def test_a_verification_is_on_record_with_its_operator_before_anybody_signs_in(office: Office, world: Watched) -> None:
    tenant = office.estate.add_tenant(5, "app-certificate")
    world.seen, world.look = [], lambda: kinds(office.events(tenant))

    office.type("credential", "verify", tenant.id, "--slot", "entra")

    world.look = list
    assert world.seen == [["Sealed", "Released"], ["Sealed", "Released", "Released"]]
    stream = credential_stream(TenantId(tenant.id), ENTRA)
    released = [one for one in office.estate.state.store.read(stream) if isinstance(one.event, CredentialReleased)]
    assert [one.event.purpose for one in released if isinstance(one.event, CredentialReleased)] == ["graph", "exchange"]
    for one in released:
        assert isinstance(one.event, CredentialReleased)
        assert one.event.operator
        assert (one.event.activation, one.event.epoch) == ("verification", 0)
        assert (one.actor, one.cause) == (f"operator:{one.event.operator}", f"uid:{os.getuid()}")
        assert not office.estate.state.store.read(run_stream(one.event.run)), "a verification is no run"


def test_a_verification_tells_what_is_missing_and_what_to_do(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    for app in tenant.apps.values():
        app.roles = {GRAPH: ("User.Read.All", "Organization.Read.All")}
        app.consented = {GRAPH}
    tenant.settings["exchange_role"] = False

    said = office.type("credential", "verify", tenant.id, "--json")

    assert said.code == 3
    granted = {one["dataset"]: one["granted"] for one in said.json["datasets"]}
    assert granted["entra.users"] == granted["entra.subscribed-skus"] == "granted"
    assert granted["audit.sign-ins"] == granted["exchange.mailboxes"] == "missing"
    exchange = said.json["resources"][1]
    assert (exchange["outcome"], exchange["readable"]) == ("verified", False)
    assert "Global Reader" in exchange["unreadable"]


REFUSALS = [
    (SignInState.MFA_REQUIRED, 50076, "app registration with a certificate"),
    (SignInState.CONDITIONAL_ACCESS, 53003, "named location"),
    (SignInState.DISABLED, 50057, "Enable it"),
]


@pytest.mark.parametrize(("state", "code", "remedy"), REFUSALS, ids=[str(state) for state, _, _ in REFUSALS])
def test_a_refused_credential_is_rejected_on_record_and_verified_again_once_it_is_mended(
    office: Office, state: SignInState, code: int, remedy: str
) -> None:
    tenant = office.estate.add_tenant(5, "service-account")
    office.block(tenant, state)

    refused = office.type("credential", "verify", tenant.id)

    assert refused.code == 1
    assert f"AADSTS{code}" in refused.out
    assert remedy in " ".join(refused.out.split())
    assert {event.code for event in office.events(tenant) if isinstance(event, CredentialRejected)} == {code}
    assert office.asked(tenant) <= 2
    office.block(tenant, SignInState.OK)
    assert office.type("credential", "verify", tenant.id).code == 0
    listed = {one["tenant"]: one for one in office.type("credential", "list", "--json").json}
    assert (listed[tenant.id]["state"], listed[tenant.id]["why"]) == ("verified", None)


def test_a_wrong_password_is_tried_once_whatever_services_the_plan_has(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "service-account")
    for account in tenant.accounts.values():
        account.password += "x"

    said = office.type("credential", "verify", tenant.id, "--json")

    assert said.code == 1
    assert [one["code"] for one in said.json["resources"]] == [50126, 50126]
    assert sum(account.bad_passwords for account in tenant.accounts.values()) == 1
    assert kinds(office.events(tenant)) == ["Sealed", "Released", "Rejected"]


def test_a_locked_account_is_not_tried_before_its_lockout_ends(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "service-account")
    office.block(tenant, SignInState.LOCKED)

    first = office.type("credential", "verify", tenant.id, "--json")
    office.block(tenant, SignInState.OK)
    asked = office.asked(tenant)
    second = office.type("credential", "verify", tenant.id, "--json")

    assert (first.code, second.code) == (1, 1)
    assert {one["outcome"] for one in second.json["resources"]} == {"not-released"}
    assert "AADSTS50053" in second.json["resources"][0]["detail"]
    assert "not tried before" in second.json["resources"][0]["detail"]
    assert office.asked(tenant) == asked
    assert next(event.why for event in office.events(tenant) if isinstance(event, ReleaseDenied)) == "credential-locked"


def test_a_new_password_of_a_locked_account_waits_for_its_lockout_too(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "service-account")
    office.block(tenant, SignInState.LOCKED)
    office.type("credential", "verify", tenant.id)
    office.block(tenant, SignInState.OK)
    asked = office.asked(tenant)
    first = office.events(tenant)[0]
    assert isinstance(first, CredentialSealed)
    account = tenant.accounts[first.identity.lower()]
    words = ("credential", "set", tenant.id, "--kind", "service-account", "--username", first.identity)

    tried = office.type(*words, stdin=account.password)

    assert tried.code == 1
    assert "not tried before" in tried.out + tried.err
    assert "--no-verify" in tried.out + tried.err
    assert office.asked(tenant) == asked


def test_nobody_verifies_while_a_collect_is_at_work_or_another_verification(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")

    with turn(office.estate.state):
        refused = office.type("credential", "verify", tenant.id)
        collected = office.type("collect", tenant.id)
        replaced = office.set(tenant, office.new_secret(tenant))

    for said, command in (
        (refused, "verify the credential"),
        (collected, "collect"),
        (replaced, "store the credential"),
    ):
        assert said.code == 2
        assert said.err.startswith(f"tenantry: Cannot {command}: another `tenantry collect`")
    assert "--no-verify" in replaced.err
    assert kinds(office.events(tenant)) == ["Sealed"]
    assert office.asked(tenant) == 0


def test_a_credential_that_a_started_run_has_is_not_verified(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    released = CredentialReleased(run=RUN, activation="a1", epoch=1, purpose="graph", transit_key="00")
    requested = RunRequested(run=RUN, tenant=TenantId(tenant.id), datasets=(Dataset("entra.users"),))
    office.estate.state.store.append(
        run_stream(RUN),
        0,
        [requested, RunStarted(activation="a1", epoch=1)],
        at=datetime.now(UTC),
        actor="operator:test",
        cause=RUN,
    )
    office.append(tenant, released)

    said = office.type("credential", "verify", tenant.id, "--json")

    assert said.code == 1
    assert "a run that is under way has it" in said.json["resources"][0]["detail"]
    assert office.asked(tenant) == 0


def test_a_credential_takes_the_place_of_another_once_it_has_signed_in(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    credential = office.new_secret(tenant)

    said = office.set(tenant, credential)

    assert (said.code, said.err) == (0, "")
    assert "signs in to graph, exchange" in said.out
    assert kinds(office.events(tenant)) == ["Sealed", "Rotated", "Released", "Released", "Verified", "Verified"]


def test_a_credential_that_does_not_sign_in_leaves_the_former_in_use(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    former = office.events(tenant)[0]

    said = office.set(tenant, AppSecret(client_id=office.new_secret(tenant).client_id, secret="not the right one"))

    assert said.code == 1
    assert said.err.startswith("tenantry: The new credential does not sign in: ")
    assert "AADSTS7000215" in said.err
    assert "The former one stays in use." in said.err
    assert kinds(office.events(tenant)) == ["Sealed", "Rotated", "Released", "Rejected", "Rotated"]
    last = office.events(tenant)[-1]
    assert isinstance(last, CredentialRotated)
    assert last.digest == former.digest  # type: ignore[union-attr]
    assert office.type("credential", "verify", tenant.id).code == 0


def test_a_former_credential_that_stood_rejected_stands_rejected_again(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    refusal = CredentialRejected(
        code=7000222, category="permanent-credential", permanent=True, run=None, resource="graph"
    )
    office.append(tenant, refusal)

    assert office.set(tenant, AppSecret(client_id=office.new_secret(tenant).client_id, secret="wrong")).code == 1

    assert office.events(tenant)[-1] == refusal
    listed = {one["tenant"]: one for one in office.type("credential", "list", "--json").json}
    assert listed[tenant.id]["state"] == "rejected"


def test_a_former_credential_is_put_back_when_nobody_could_be_asked(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    office.estate.fail(tenant, "token", "reset", times=None)

    said = office.set(tenant, office.new_secret(tenant))

    assert said.code == 1
    assert "The former one stays in use." in said.err
    assert kinds(office.events(tenant)) == ["Sealed", "Rotated", "Released", "Released", "Rotated"]


def test_a_credential_is_stored_unseen_on_request(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")

    said = office.set(
        tenant, AppSecret(client_id=office.new_secret(tenant).client_id, secret="whatever"), "--no-verify"
    )

    assert said.code == 0
    assert kinds(office.events(tenant)) == ["Sealed", "Rotated"]
    assert office.asked(tenant) == 0


def test_who_stores_a_credential_unseen_is_told_how_to_try_it(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")

    said = office.set(tenant, office.new_secret(tenant), "--no-verify")

    assert f"`tenantry credential verify {tenant.id}` tries it" in said.out.replace("\n", " ")


def test_what_expires_soon_is_listed_with_the_days_left(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-certificate")

    soon = office.type("credential", "expiring", "--days", "400", "--json")
    never = office.type("credential", "expiring", "--days", "30", "--json")

    assert (soon.code, never.code) == (3, 0)
    assert {one["tenant"]: one["days_left"] for one in soon.json}[tenant.id] == 364
    assert never.json == []


def test_a_verification_does_not_show_the_secret_and_the_log_keeps_it_out(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")

    said = office.type("credential", "verify", tenant.id)
    history = office.type("credential", "history", tenant.id, "--json")

    for secret in office.estate.planted:
        assert secret not in said.out + said.err + history.out
    released = [one for one in history.json if one["event"] == "credential-released/1"]
    assert all(one["data"]["operator"] for one in released)


def test_a_run_does_not_sign_in_with_what_stands_rejected_and_says_what_to_do(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "service-account")
    office.block(tenant, SignInState.MFA_REQUIRED)
    first = collected(office, tenant, "entra.organization")
    asked = office.asked(tenant)

    second = collected(office, tenant, "entra.organization")

    assert (first.reason, second.reason) == ("AADSTS50076", "credential-rejected")
    assert second.detail.startswith("AADSTS50076: Multi-factor authentication is demanded. Use an app registration")
    assert office.asked(tenant) == asked
    listed = {one["run"]: one for one in office.type("run", "list", "--json").json}
    assert listed[second.id]["reason"] == "credential-rejected"
    office.block(tenant, SignInState.OK)
    assert office.type("credential", "verify", tenant.id).code == 0
    assert collected(office, tenant, "entra.organization").state == "finished"


def test_a_run_leaves_a_locked_account_alone(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "service-account")
    office.block(tenant, SignInState.LOCKED)
    collected(office, tenant, "entra.organization")
    asked = office.asked(tenant)

    second = collected(office, tenant, "entra.organization")

    assert (second.reason, office.asked(tenant)) == ("credential-rejected", asked)
    assert "AADSTS50053" in second.detail
    assert "not tried before" in second.detail


def test_a_skipped_tenant_is_one_line_of_the_report(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "service-account")
    office.block(tenant, SignInState.MFA_REQUIRED)
    runs_of = [collected(office, tenant, "entra.organization").id for _ in range(2)]
    session = Session(load(str(office.estate.directory), str(office.config), {}, Path.cwd()), False, new_console())
    office.capsys.readouterr()

    report(session, office.estate.state, runs_by_id(office.estate.state, runs_of[1:]))

    said = " ".join(office.capsys.readouterr().out.split())
    assert f"{tenant.name} is skipped: AADSTS50076: Multi-factor authentication is demanded. Use an app" in said


def test_an_expiry_is_announced_by_one_night_and_not_by_the_next(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    soon = datetime.now(UTC) + timedelta(days=9)
    rotated = CredentialRotated(kind="app-certificate", identity="x", vault_key="k", digest="d", expires=soon)
    office.append(tenant, rotated)

    nights = [announce(office.estate.state, {TenantId(tenant.id)}, "collect") for _ in range(2)]

    assert [len(night) for night in nights] == [1, 0]
    assert [event for event in office.events(tenant) if isinstance(event, CredentialExpiring)] == [
        CredentialExpiring(expires=soon)
    ]
    assert office.type("credential", "expiring").code == 3


@pytest.mark.parametrize("way", ["set", "put"])
def test_a_client_secret_is_forecast_by_the_expiry_that_was_given_with_it(office: Office, way: str) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    soon = (datetime.now(UTC) + timedelta(days=9, hours=12)).replace(microsecond=0)
    new, words = office.new_secret(tenant), ["--expires", soon.isoformat()]
    if way == "put":
        sealed, key = office.config.with_name("sealed.json"), office.estate.directory / PUBLIC_KEY_FILE
        where = ["--public-key", str(key), "--tenant", tenant.id, "--out", str(sealed)]
        what = ["--kind", "app-secret", "--client-id", new.client_id]
        office.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(new.secret.encode())))
        assert main(["credential", "seal", *where, *what, *words]) == 0
        said = office.type("credential", "put", str(sealed))
    else:
        said = office.set(tenant, new, *words)
    assert (said.code, said.err) == (0, "")

    listed = office.type("credential", "expiring", "--days", "10", "--json")
    nights = [announce(office.estate.state, {TenantId(tenant.id)}, "collect") for _ in range(2)]
    examined = office.type("doctor", tenant.id, "--json")

    assert listed.code == 3
    (one,) = [one for one in listed.json if one["tenant"] == tenant.id]
    assert (one["kind"], one["identity"], one["days_left"]) == ("app-secret", new.client_id, 9)
    assert datetime.fromisoformat(one["expires"]) == soon
    assert [[(of.tenant, of.slot, of.expires) for of in night] for night in nights] == [[(tenant.id, ENTRA, soon)], []]
    assert [event for event in office.events(tenant) if isinstance(event, CredentialExpiring)] == [
        CredentialExpiring(expires=soon)
    ]
    (warned,) = [one for one in examined.json if one["step"] == "credential"]
    assert (warned["outcome"], "9 days left" in warned["detail"]) == ("warning", True)
