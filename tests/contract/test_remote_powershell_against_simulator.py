"""Datasets of an Exchange Server, collected over remote PowerShell from the simulated one."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from collectors.catalog import load_catalog
from collectors.psrp import RemotePowerShell
from collectors.readers import reader_for
from collectors.work import Assignment, Complete, End, Truncated
from crypto.secret import Secret
from domain.errors import ProtocolViolation, SignInFailed, Throttled
from domain.events import ExchangeServer
from domain.ids import Dataset, RunId, TenantId
from domain.settings import CLOUDS
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import Account, Fault, Tenant, World

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CATALOG = load_catalog()
MAILBOXES, CONNECTORS = Dataset("onprem.mailboxes"), Dataset("onprem.receive-connectors")


@dataclass
class Server:
    """A tenant's Exchange Server and the account that reads it; waiting is only noted."""

    simulator: Simulator
    tenant: Tenant
    account: Account
    waited: list[float] = field(default_factory=list)

    async def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        await asyncio.sleep(0)

    def fail(self, kind: str, times: int | None = 1, after: int = 0) -> None:
        self.simulator.world.faults[(self.tenant.id, "*")] = [Fault(kind, times, after)]

    def collect(self, *names: Dataset, password: str = "") -> tuple[list[dict[str, Any]], End | None]:
        return asyncio.run(self._collect(names, Secret(password or self.account.password)))

    async def _collect(self, names: tuple[Dataset, ...], password: Secret) -> tuple[list[dict[str, Any]], End | None]:
        """The rows of the datasets, one after the other in one runspace pool, and the last one's end."""
        address = ExchangeServer(host="localhost", port=urlsplit(self.simulator.url).port or 0, auth="basic")
        remote = RemotePowerShell(address, self.account.upn, password, str(self.simulator.ca_file), wait=self.wait)
        rows: list[bytes] = []
        end: End | None = None
        try:
            for name in names:
                assignment = Assignment(
                    tenant=TenantId(self.tenant.id),
                    run=RunId("20261122T203000-0a1b2c3d"),
                    dataset=name,
                    mode="full",
                    cloud=CLOUDS["public"],
                    exchange_server=address,
                )
                reader = reader_for(CATALOG[name], assignment)
                while request := reader.next_request():
                    rows += reader.receive(await remote.perform(request))
                end = reader.end
        finally:
            await remote.aclose()
        return [json.loads(row) for row in rows], end


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(World()) as running:
        yield running


@pytest.fixture
def server(simulator: Simulator) -> Server:
    seed = secrets.randbelow(1 << 30)
    tenant = populate(seed=seed, name=f"Test {seed}", users=60, now=NOW, exchange_server=True)
    account = Account(f"svc@{tenant.domain}", secrets.token_urlsafe(16))
    tenant.accounts[account.upn] = account
    simulator.world.tenants[tenant.id] = tenant
    return Server(simulator, tenant, account)


@pytest.mark.parametrize("name", [MAILBOXES, CONNECTORS])
def test_an_exchange_server_is_read_over_remote_powershell(server: Server, name: Dataset) -> None:
    rows, end = server.collect(name)

    assert end == Complete()
    assert rows
    assert all(row[CATALOG[name].key] for row in rows)
    assert set(rows[0]) == set(CATALOG[name].select) & set(rows[0])
    assert all(isinstance(value, (str, int, bool, list, type(None))) for value in rows[0].values())


def test_one_runspace_pool_serves_every_dataset_and_is_closed(server: Server) -> None:
    server.tenant.settings["psrp_max_shells"] = 1

    for _ in range(2):
        assert server.collect(MAILBOXES, CONNECTORS, MAILBOXES)[1] == Complete()
    assert server.waited == []


def test_a_lost_shell_is_opened_again(server: Server) -> None:
    server.fail("shell-lost", after=3)

    assert server.collect(CONNECTORS)[1] == Complete()
    assert server.waited


def test_a_server_without_a_free_runspace_is_asked_again_and_then_given_up(server: Server) -> None:
    server.fail("quota", times=2)
    assert server.collect(CONNECTORS)[1] == Complete()
    server.fail("quota", times=None)
    with pytest.raises(Throttled):
        server.collect(CONNECTORS)


@pytest.mark.parametrize(("kind", "reason"), [("warning", "warned"), ("failed", "cmdlet-failed")])
def test_what_an_exchange_server_warns_of_truncates(server: Server, kind: str, reason: str) -> None:
    server.fail(kind, times=None)

    _, end = server.collect(MAILBOXES)

    assert isinstance(end, Truncated)
    assert end.reason == reason


def test_a_wrong_password_is_a_failed_sign_in_and_tried_once(server: Server) -> None:
    with pytest.raises(SignInFailed) as refused:
        server.collect(MAILBOXES, password=secrets.token_urlsafe(16))

    assert refused.value.args[1] == "permanent-credential"
    assert refused.value.__context__ is None
    assert server.waited == []


class Proxy(BaseHTTPRequestHandler):
    """Something in between that answers everything with a page of its own."""

    page = b"<html>Please sign in</html>"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_what_is_no_answer_of_powershell_is_told_from_a_refusal() -> None:
    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        address = ExchangeServer(host="127.0.0.1", port=proxy.server_port, auth="negotiate", tls=False)
        remote = RemotePowerShell(address, "user", Secret(secrets.token_urlsafe(16)))
        request = reader_for(
            CATALOG[CONNECTORS],
            Assignment(
                tenant=TenantId("11111111-2222-3333-4444-555555555555"),
                run=RunId("20261122T203000-0a1b2c3d"),
                dataset=CONNECTORS,
                mode="full",
                cloud=CLOUDS["public"],
                exchange_server=address,
            ),
        ).next_request()
        assert request is not None

        with pytest.raises(ProtocolViolation):
            asyncio.run(remote.perform(request))

        asyncio.run(remote.aclose())
        proxy.shutdown()
