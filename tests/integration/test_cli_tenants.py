"""Tenants at the command line: registered with a plan, suspended and resumed."""

from __future__ import annotations

import json

from desk import STRANGER, SUSPENDED, Desk

from domain.events import DataKeyCreated, PlanChanged, TenantRegistered, TenantResumed
from domain.ids import TenantId, tenant_stream


def test_a_tenant_is_registered_with_its_plan(desk: Desk) -> None:
    words = ["tenant", "add", STRANGER, "--domain", "fabrikam.com", "--json"]

    said = desk.type(*words, "--plan", "audit.sign-ins", "--plan", "entra.users", "--every", "6")

    assert (said.code, said.err) == (0, "")
    planned = ["audit.sign-ins", "entra.users"]
    assert (json.loads(said.out)["datasets"], json.loads(said.out)["cadence_seconds"]) == (planned, 6 * 3600)
    events = [type(one.event) for one in desk.opened().store.read(tenant_stream(TenantId(STRANGER)))]
    assert events == [TenantRegistered, PlanChanged, DataKeyCreated]
    assert "Plan: audit.sign-ins, entra.users, every 6 h" in desk.type("tenant", "show", STRANGER).out
    assert desk.type("collect", STRANGER, "--detach").code == 0
    (run,) = json.loads(desk.type("run", "list", "--tenant", STRANGER, "--json").out)
    assert {one["dataset"] for one in run["datasets"]} == {*planned}


def test_a_tenant_without_a_plan_has_the_whole_catalog_every_day(desk: Desk) -> None:
    assert desk.type("tenant", "add", STRANGER, "--domain", "fabrikam.com").code == 0

    events = [type(one.event) for one in desk.opened().store.read(tenant_stream(TenantId(STRANGER)))]
    assert events == [TenantRegistered, DataKeyCreated]
    assert "Plan: the whole catalog, every 24 h" in desk.type("tenant", "show", STRANGER).out


def test_a_resumed_tenant_is_collected_again(desk: Desk) -> None:
    said = desk.type("tenant", "resume", SUSPENDED)

    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"Resumed contoso.com ({SUSPENDED})")
    assert desk.opened().store.read(tenant_stream(TenantId(SUSPENDED)))[-1].event == TenantResumed()
    assert desk.type("collect", SUSPENDED, "--detach").code == 0
    assert desk.type("tenant", "resume", SUSPENDED).out.startswith("Nothing to change for contoso.com")
