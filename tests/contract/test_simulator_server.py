"""The server around the services: faults of the wire, controls, and the stand-alone program."""

from __future__ import annotations

import json
import os
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.identity import CertificateCredential, ClientSecretCredential

from simulator.credentials import register_account, register_secret_app
from simulator.faults import REQUESTS_KEPT, record
from simulator.population import populate
from simulator.server import PortTaken, Simulator
from simulator.tokens import Issuer, TokenRejected
from simulator.world import EXCHANGE, GRAPH, Fault, Tenant, World

NOW = datetime(2026, 11, 2, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    world = World()
    tenant = populate(seed=1, name="Northwind Traders", users=60, now=NOW)
    register_secret_app(tenant, "reporting", NOW)
    register_account(tenant, "svc")
    world.tenants[tenant.id] = tenant
    with Simulator(world, now=lambda: NOW) as running:
        yield running


@pytest.fixture
def tenant(simulator: Simulator) -> Iterator[Tenant]:
    yield next(iter(simulator.world.tenants.values()))
    simulator.world.faults.clear()


@pytest.fixture
def http(simulator: Simulator) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(simulator.ca_file))
    with httpx.Client(base_url=simulator.url, verify=context) as client:
        yield client


def configuration(http: httpx.Client, tenant: Tenant) -> httpx.Response:
    return http.get(f"/{tenant.id}/v2.0/.well-known/openid-configuration")


class TestFaultsOfTheWire:
    @pytest.mark.parametrize("value", [7, "2.128", format_datetime(NOW, usegmt=True), None])
    def test_throttling_says_when_to_return_in_any_form_or_not_at_all(
        self, simulator: Simulator, tenant: Tenant, http: httpx.Client, value: Any
    ) -> None:
        fault = Fault("throttle", options={"retry_after": value})
        simulator.world.faults[tenant.id, "openid-configuration"] = [fault]
        answer = configuration(http, tenant)
        assert answer.status_code == 429
        assert answer.headers.get("Retry-After") == (None if value is None else str(value))
        assert configuration(http, tenant).status_code == 200

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_a_server_error_has_the_status_that_was_asked_for(
        self, simulator: Simulator, tenant: Tenant, http: httpx.Client, status: int
    ) -> None:
        fault = Fault("error", after=1, options={"status": status})
        simulator.world.faults["*", "openid-configuration"] = [fault]
        assert [configuration(http, tenant).status_code for _ in range(3)] == [200, status, 200]

    def test_a_reset_connection_answers_nothing(self, simulator: Simulator, tenant: Tenant, http: httpx.Client) -> None:
        simulator.world.faults[tenant.id, "openid-configuration"] = [Fault("reset")]
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            configuration(http, tenant)
        assert simulator.world.requests[-1][3] == 0
        assert configuration(http, tenant).status_code == 200

    def test_a_cut_body_is_shorter_than_it_says(self, simulator: Simulator, tenant: Tenant, http: httpx.Client) -> None:
        whole = configuration(http, tenant)
        simulator.world.faults[tenant.id, "openid-configuration"] = [Fault("cut")]
        path = f"/{tenant.id}/v2.0/.well-known/openid-configuration"
        received: list[bytes] = []
        with http.stream("GET", path) as answer:
            assert (answer.status_code, answer.headers["Content-Length"]) == (200, whole.headers["Content-Length"])
            with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
                received.extend(answer.iter_raw())
        assert b"".join(received) == whole.content[: len(whole.content) // 2]

    def test_a_slow_answer_comes_later_than_the_caller_waits(
        self, simulator: Simulator, tenant: Tenant, http: httpx.Client
    ) -> None:
        simulator.world.faults[tenant.id, "openid-configuration"] = [Fault("slow", options={"seconds": 0.3})]
        with pytest.raises(httpx.ReadTimeout):
            http.get(f"/{tenant.id}/v2.0/.well-known/openid-configuration", timeout=0.05)

    def test_a_fault_waits_for_a_request_that_it_can_befall(
        self, simulator: Simulator, tenant: Tenant, http: httpx.Client
    ) -> None:
        refused = Fault("aadsts", after=1, options={"code": 50053})
        simulator.world.faults[tenant.id, "*"] = [refused]
        assert [configuration(http, tenant).status_code for _ in range(3)] == [200, 200, 200]
        assert refused.taken == 0
        answer = http.post(f"/{tenant.id}/oauth2/v2.0/token", data={"grant_type": "password"})
        assert answer.json()["error_codes"] == [50053]
        assert (refused.taken, refused.times) == (1, 0)


def test_answered_requests_are_kept_up_to_a_number_and_counted_beyond_it() -> None:
    world = World()
    for number in range(REQUESTS_KEPT + 100):
        record(world, "t", "users", f"/{number}", 200)
    assert len(world.requests) <= REQUESTS_KEPT
    assert world.requests[-1] == ("t", "users", f"/{REQUESTS_KEPT + 99}", 200)
    assert world.counters["t", "users", 200] == REQUESTS_KEPT + 100


def test_a_token_is_for_one_resource_until_it_expires() -> None:
    moments = [NOW]
    issuer = Issuer("https://localhost:1", lambda: moments[-1])
    token = f"Bearer {issuer.issue('t', 'a', GRAPH, 's', ('User.Read.All',))}"
    assert issuer.verify(token, GRAPH).roles == ("User.Read.All",)
    with pytest.raises(TokenRejected, match="audience"):
        issuer.verify(token, EXCHANGE)
    for wrong in (None, "", "Basic x", "Bearer", "Bearer a.b.c", token[:-6] + "AAAAAA"):
        with pytest.raises(TokenRejected):
            issuer.verify(wrong, GRAPH)
    moments.append(datetime(2026, 11, 2, 10, tzinfo=UTC))
    with pytest.raises(TokenRejected, match="expired"):
        issuer.verify(token, GRAPH)


def test_a_port_in_use_is_one_clear_error(simulator: Simulator) -> None:
    port = int(simulator.url.rpartition(":")[2])
    with pytest.raises(PortTaken, match=rf"Port {port} .* in use"), Simulator(World(), port):
        pass


def test_the_key_of_the_certificate_is_readable_by_its_owner_only_and_ends_with_the_server() -> None:
    with Simulator(World()) as running:
        directory = running.ca_file.parent
        assert stat.S_IMODE((directory / "server.key").stat().st_mode) == 0o600
        assert httpx.get(f"{running.url}/nowhere", verify=ssl.create_default_context(cafile=str(running.ca_file)))
    assert not directory.exists()


class TestControls:
    def test_tenants_are_shown_without_their_secrets(
        self, simulator: Simulator, tenant: Tenant, http: httpx.Client
    ) -> None:
        text = http.get("/_simulator/tenants").text
        assert json.loads(text)[0]["id"] == tenant.id
        secrets = [secret.value for app in tenant.apps.values() for secret in app.secrets]
        secrets += [account.password for account in tenant.accounts.values()]
        assert len(secrets) == 2
        assert not any(secret in text for secret in secrets)

    def test_every_dataset_of_every_service_can_be_asked_for_its_truth(
        self, tenant: Tenant, http: httpx.Client
    ) -> None:
        names = http.get("/_simulator/truth").json()
        assert "users" in names
        for name in names:
            answer = http.get(f"/_simulator/truth/{tenant.id}/{name}")
            assert answer.status_code == 200, name
            assert answer.json()["rows"] == len(answer.json()["items"])
        counted = http.get(f"/_simulator/truth/{tenant.domain}/users?items=no").json()
        assert counted == {"rows": len(tenant.people)}

    def test_faults_are_set_shown_taken_and_cleared(self, tenant: Tenant, http: httpx.Client) -> None:
        wanted = {"tenant": tenant.domain, "route": "openid-configuration", "kind": "error", "options": {"status": 502}}
        shown = http.put("/_simulator/faults", json=wanted).json()
        assert shown == [{**wanted, "tenant": tenant.id, "times": 1, "after": 0, "taken": 0}]
        assert configuration(http, tenant).status_code == 502
        (taken,) = http.get("/_simulator/faults").json()
        assert (taken["times"], taken["taken"]) == (0, 1)
        http.put("/_simulator/faults", json=[{"route": "a", "kind": "reset"}, {"route": "b", "kind": "reset"}])
        assert len(http.get("/_simulator/faults").json()) == 3
        assert len(http.delete("/_simulator/faults", params={"route": "a"}).json()) == 2
        assert http.delete("/_simulator/faults").json() == []

    def test_a_change_moves_the_tenants(self, tenant: Tenant, http: httpx.Client) -> None:
        before = tenant.sequence
        changed = http.post("/_simulator/change", json={"tenant": "*", "fraction": 0.1}).json()
        assert changed[tenant.id]["added"] == 1
        assert tenant.sequence == before + 1

    def test_settings_and_states_can_be_switched(self, tenant: Tenant, http: httpx.Client) -> None:
        upn, client_id = next(iter(tenant.accounts)), next(iter(tenant.apps))
        body = {"settings": {"region": "NA"}, "accounts": {upn: "mfa-required"}, "apps": {client_id: "disabled"}}
        shown = http.patch(f"/_simulator/tenants/{tenant.id}", json=body).json()
        assert (shown["accounts"][upn], shown["apps"][client_id]) == ("mfa-required", "disabled")
        assert configuration(http, tenant).json()["tenant_region_scope"] == "NA"
        http.patch(f"/_simulator/tenants/{tenant.id}", json={"settings": {"region": None}})
        assert configuration(http, tenant).json()["tenant_region_scope"] == "EU"

    def test_requests_and_counters_tell_what_was_answered(self, tenant: Tenant, http: httpx.Client) -> None:
        http.delete("/_simulator/requests")
        configuration(http, tenant)
        path = f"/{tenant.id}/v2.0/.well-known/openid-configuration"
        wanted = {"tenant": tenant.id, "route": "openid-configuration", "path": path, "status": 200}
        assert http.get("/_simulator/requests", params={"tenant": tenant.id}).json() == [wanted]
        assert http.get("/_simulator/requests", params={"route": "users"}).json() == []
        counters = http.get("/_simulator/counters").json()
        found = next(row for row in counters if row["route"] == "openid-configuration" and row["status"] == 200)
        assert found["requests"] >= 1

    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("PUT", "faults", {"tenant": "*"}, 400),
            ("PUT", "faults", {"kind": "reset", "times": -1}, 400),
            ("PUT", "faults", {"kind": "reset", "tenant": "nobody"}, 404),
            ("POST", "change", {"fraction": 2}, 400),
            ("POST", "change", {"fraction": True}, 400),
            ("POST", "change", {"tenant": "nobody"}, 404),
            ("POST", "change", [], 400),
            ("GET", "truth/nobody/users", None, 404),
            ("GET", "truth/northwindtraders.example/nothing", None, 404),
            ("PATCH", "tenants/northwindtraders.example", {"people": {}}, 400),
            ("PATCH", "tenants/northwindtraders.example", {"accounts": {"nobody": "ok"}}, 404),
        ],
    )
    def test_a_mistake_is_told_in_a_sentence(  # noqa: PLR0917 - a row of the table
        self, http: httpx.Client, tenant: Tenant, method: str, path: str, body: Any, status: int
    ) -> None:
        answer = http.request(method, f"/_simulator/{path}", json=body)
        assert answer.status_code == status
        assert answer.json()["error"].endswith(".")


class Program:
    """`python -m simulator`, and the line it says when it serves."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "simulator", "--users", "30", "--state", str(directory), *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603 - our own program
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.said: dict[str, Any] = json.loads(line) if line else {}

    def end(self) -> tuple[int, str]:
        _, error = self.process.communicate(timeout=20)
        return self.process.returncode, error.decode()


def test_the_program_announces_tenants_whose_credentials_work_and_ends_with_its_starter(tmp_path: Path) -> None:
    program = Program(tmp_path, "--tenants", "6", "--until-stdin-closes")
    said = program.said
    assert [tenant["credential"]["kind"] for tenant in said["tenants"]] == [
        "app-certificate",
        "app-secret",
        "service-account",
        "service-account",
        "app-secret",
        "service-account",
    ]
    assert [tenant["exchange_server"] for tenant in said["tenants"]] == [False, False, True] * 2
    assert set(said["clouds"]["simulator"]) == {"login", "graph", "exchange", "compliance", "activity", "ca_bundle"}
    files = [Path(tenant["credential"]["file"]) for tenant in said["tenants"]]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    context = ssl.create_default_context(cafile=said["ca_bundle"])
    options = {
        "authority": said["url"],
        "disable_instance_discovery": True,
        "connection_verify": said["ca_bundle"],
    }
    with httpx.Client(base_url=said["url"], verify=context) as http:
        for tenant, file in zip(said["tenants"], files, strict=True):
            credential = tenant["credential"]
            if credential["kind"] == "service-account":
                form = {
                    "grant_type": "password",
                    "client_id": credential["client_id"],
                    "username": credential["username"],
                    "password": file.read_text(),
                    "scope": f"{said['clouds']['simulator']['graph']}/.default",
                }
                answer = http.post(f"/{tenant['id']}/oauth2/v2.0/token", data=form)
                refused = answer.json().get("error_codes")
                assert refused == {"ok": None, "mfa-required": [50076]}[tenant["sign_in"]]
            elif tenant["sign_in"] == "ok":
                if credential["kind"] == "app-certificate":
                    signer: Any = CertificateCredential(
                        tenant["id"], credential["client_id"], certificate_path=str(file), **options
                    )
                else:
                    signer = ClientSecretCredential(tenant["id"], credential["client_id"], file.read_text(), **options)
                with signer:
                    assert signer.get_token(f"{GRAPH}/.default").token
            else:
                form = {
                    "grant_type": "client_credentials",
                    "client_id": credential["client_id"],
                    "client_secret": file.read_text(),
                    "scope": f"{GRAPH}/.default",
                }
                answer = http.post(f"/{tenant['id']}/oauth2/v2.0/token", data=form)
                assert answer.json()["error_codes"] == [7000222]
    assert program.end() == (0, "")


def test_the_program_ends_on_a_signal_and_says_when_its_port_is_taken(tmp_path: Path) -> None:
    first = Program(tmp_path / "first", "--tenants", "1")
    port = first.said["url"].rpartition(":")[2]
    second = Program(tmp_path / "second", "--tenants", "1", "--port", port)
    status, error = second.end()
    assert (status, error) == (
        1,
        f"Port {port} on the loopback interface is in use; choose another one or leave it out.\n",
    )
    third = Program(tmp_path / "first", "--tenants", "1")
    assert third.end() == (1, f"Another simulator uses {tmp_path / 'first'}. Give a directory of its own.\n")
    with httpx.Client(verify=ssl.create_default_context(cafile=first.said["ca_bundle"])) as http:
        assert http.get(f"{first.said['url']}/_simulator/").status_code == 200
    os.kill(first.process.pid, signal.SIGTERM)
    assert first.end() == (0, "")


def test_the_program_does_not_print_a_secret(tmp_path: Path) -> None:
    program = Program(tmp_path, "--tenants", "3", "--until-stdin-closes")
    text = json.dumps(program.said)
    files = [Path(tenant["credential"]["file"]) for tenant in program.said["tenants"]]
    assert not any(file.read_text() in text for file in files)
    program.end()


def test_wrong_usage_is_told_with_the_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simulator", "--tenants", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "0 is not a number from 1 to 10000" in done.stderr
