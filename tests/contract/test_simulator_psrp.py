"""The simulated Exchange Server, as pypsrp 0.9.1 meets it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psrpcore
import pytest
from pypsrp.complex_objects import PSInvocationState
from pypsrp.exceptions import AuthenticationError, WinRMTransportError, WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan

from simulator import clixml, wsman
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import Account, Fault, SignInState, Tenant, World

USER = "svc-collect@fabrikam.example"
SHELL_NOT_FOUND = 0x8033805B
QUOTA_OF_SHELLS = 0x803381A5


@dataclass
class Server:
    """A simulated Exchange Server and how to reach it."""

    simulator: Simulator
    tenant: Tenant

    def connection(self, password: str | None = None, **options: Any) -> WSMan:
        account = self.tenant.accounts[USER]
        return WSMan(
            "localhost",
            port=urlsplit(self.simulator.url).port,
            ssl=True,
            path="PowerShell",
            auth="basic",
            username=USER,
            password=password or account.password,
            cert_validation=str(self.simulator.ca_file),
            **options,
        )

    def pool(self, **options: Any) -> RunspacePool:
        return RunspacePool(self.connection(**options), configuration_name="Microsoft.Exchange")

    def fail(self, route: str, kind: str, **options: Any) -> None:
        after = options.pop("after", 0)
        self.simulator.world.faults[(self.tenant.id, route)] = [Fault(kind, after=after, options=options)]


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator(World()) as simulator:
        yield simulator


@pytest.fixture
def server(running: Simulator) -> Iterator[Server]:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    tenant = populate(seed=11, name="fabrikam", users=1500, now=now, exchange_server=True)
    tenant.accounts[USER] = Account(USER, secrets.token_urlsafe(16))
    running.world.tenants[tenant.id] = tenant
    yield Server(running, tenant)
    running.world.tenants.clear()
    running.world.faults.clear()


def run(pool: RunspacePool, cmdlet: str, **parameters: Any) -> PowerShell:
    powershell = PowerShell(pool).add_cmdlet(cmdlet).add_parameters(parameters)
    powershell.invoke()
    return powershell


def rows(powershell: PowerShell) -> list[dict[str, Any]]:
    """Properties of the objects as CLIXML wrote them, GUIDs as strings."""
    return [
        {name: str(value) if isinstance(value, UUID) else value for name, value in item.adapted_properties.items()}
        for item in powershell.output
    ]


def test_pypsrp_reads_every_mailbox_with_its_type_and_properties(server: Server) -> None:
    with server.pool() as pool:
        powershell = run(pool, "Get-Mailbox", ResultSize="Unlimited")
    truth = wsman.TRUTH["onprem-mailboxes"](server.tenant)
    assert len(truth) == len(server.tenant.people) // 5
    assert powershell.state == PSInvocationState.COMPLETED
    assert rows(powershell) == truth
    assert powershell.output[0].types[0] == "Microsoft.Exchange.Data.Directory.Management.Mailbox"
    assert powershell.output[0].adapted_properties["ProhibitSendReceiveQuota"] == "100 GB (107,374,182,400 bytes)"


def test_mailboxes_on_the_server_are_not_those_of_the_cloud(server: Server) -> None:
    guids = {row["ExchangeGuid"] for row in wsman.TRUTH["onprem-mailboxes"](server.tenant)}
    assert guids.isdisjoint({person.mailbox_guid for person in server.tenant.people.values()})


def test_a_client_of_the_other_implementation_sees_deserialized_types(server: Server) -> None:
    row = {"Name": "a_x0041_\x07𝄞", "Guid": UUID(int=7), "Count": 1 << 40, "Empty": [], "Nothing": None, "On": True}
    element = psrpcore.types.deserialize_clixml(
        f"<Objs>{clixml.document(('Vendor.Mailbox', 'System.Object'), row).decode()}</Objs>",
        psrpcore.PSRemotingCrypto(),
    )[0]
    assert element.PSTypeNames[0] == "Deserialized.Vendor.Mailbox"
    assert (element.Name, element.Guid, element.Count, element.Empty, element.Nothing, element.On) == tuple(
        row.values()
    )


def test_connectors_and_servers_are_read(server: Server) -> None:
    with server.pool() as pool:
        connectors = run(pool, "Get-ReceiveConnector")
        servers = run(pool, "Get-ExchangeServer")
    assert rows(connectors) == wsman.TRUTH["receive-connectors"](server.tenant)
    assert rows(servers) == wsman.TRUTH["exchange-servers"](server.tenant)


def test_a_mailbox_is_found_by_address_and_projected(server: Server) -> None:
    wanted = wsman.TRUTH["onprem-mailboxes"](server.tenant)[17]
    with server.pool() as pool:
        powershell = PowerShell(pool).add_cmdlet("Get-Mailbox").add_parameter("Identity", wanted["PrimarySmtpAddress"])
        powershell.add_cmdlet("Select-Object").add_parameter("Property", ["ExchangeGuid", "Alias"])
        powershell.invoke()
    assert rows(powershell) == [{"ExchangeGuid": wanted["ExchangeGuid"], "Alias": wanted["Alias"]}]
    assert powershell.output[0].types[0].startswith("Selected.")


def test_a_limited_result_comes_with_a_warning(server: Server) -> None:
    with server.pool() as pool:
        powershell = run(pool, "Get-Mailbox", ResultSize=10)
    assert len(powershell.output) == 10
    assert "There are more results available" in powershell.streams.warning[0].message


def test_an_object_that_is_not_there_is_an_error_that_does_not_end_the_pipeline(server: Server) -> None:
    with server.pool() as pool:
        powershell = run(pool, "Get-Mailbox", Identity="nobody@fabrikam.example")
    assert powershell.state == PSInvocationState.COMPLETED
    assert "couldn't be found" in str(powershell.streams.error[0])
    assert powershell.streams.error[0].reason == "ManagementObjectNotFoundException"


@pytest.mark.parametrize(
    ("cmdlet", "parameters", "sentence"),
    [
        ("Get-Process", {}, "is not recognized as the name of a cmdlet"),
        ("Get-Mailbox", {"Colour": "red"}, "A parameter cannot be found that matches parameter name 'Colour'"),
        ("Get-Mailbox", {"ResultSize": "many"}, "Cannot process argument transformation"),
    ],
)
def test_a_call_that_cannot_run_ends_its_pipeline(
    server: Server, cmdlet: str, parameters: dict[str, Any], sentence: str
) -> None:
    with server.pool() as pool:
        powershell = run(pool, cmdlet, **parameters)
        assert powershell.state == PSInvocationState.FAILED
        assert sentence in str(powershell.streams.error[0])
        assert run(pool, "Get-ExchangeServer").state == PSInvocationState.COMPLETED


def test_a_script_is_refused(server: Server) -> None:
    with server.pool() as pool:
        powershell = PowerShell(pool).add_script("Get-Mailbox | Where-Object { $_.Alias }")
        powershell.invoke()
    assert powershell.state == PSInvocationState.FAILED
    assert "no-language mode" in str(powershell.streams.error[0])
    assert powershell.streams.error[0].fq_error == "ScriptsNotAllowed"


def test_a_fourth_shell_of_a_user_is_refused_until_one_is_closed(server: Server) -> None:
    pools = [server.pool() for _ in range(4)]
    for pool in pools[:3]:
        pool.open()
    with pytest.raises(WSManFaultError, match="maximum number of connections allowed : 3") as refused:
        pools[3].open()
    assert refused.value.code == QUOTA_OF_SHELLS
    pools[0].close()
    again = server.pool()
    again.open()
    for pool in (pools[1], pools[2], again):
        pool.close()


def test_shells_left_alone_make_room_and_are_gone(server: Server) -> None:
    pools = [server.pool() for _ in range(3)]
    for pool in pools:
        pool.open()
    server.tenant.settings["psrp_idle_seconds"] = 0
    with pytest.raises(WSManFaultError) as lost:
        run(pools[0], "Get-ExchangeServer")
    assert lost.value.code == SHELL_NOT_FOUND
    server.tenant.settings["psrp_idle_seconds"] = 900
    with server.pool() as pool:
        assert run(pool, "Get-ExchangeServer").output


def test_a_slow_cmdlet_is_polled_again_after_each_operation_timeout(server: Server) -> None:
    server.tenant.settings["psrp_latency_seconds"] = {"get-exchangeserver": 1.2}
    with server.pool(operation_timeout=1) as pool:
        powershell = run(pool, "Get-ExchangeServer")
    polls = [status for _, route, _, status in server.simulator.world.requests if route == "psrp.get-exchangeserver"]
    assert len(powershell.output) == 2
    assert polls[-2:] == [500, 200]


def test_each_answer_stays_within_the_envelope_the_client_asked_for(server: Server) -> None:
    server.tenant.settings["psrp_receive_bytes"] = 20_000
    with server.pool() as pool:
        powershell = PowerShell(pool).add_cmdlet("Get-Mailbox").add_parameter("ResultSize", "Unlimited")
        powershell.begin_invoke()
        sizes = []
        while powershell.state == PSInvocationState.RUNNING:
            before = len(powershell.output)
            powershell.poll_invoke()
            sizes.append(len(powershell.output) - before)
    assert len(powershell.output) == len(server.tenant.people) // 5
    assert max(sizes) < 12


def test_a_running_pipeline_is_stopped_while_the_pool_lives_on(server: Server) -> None:
    server.tenant.settings["psrp_latency_seconds"] = {"get-mailbox": 60}
    with server.pool() as pool:
        powershell = PowerShell(pool).add_cmdlet("Get-Mailbox")
        powershell.begin_invoke()
        powershell.stop()
        assert powershell.state == PSInvocationState.STOPPED
        assert run(pool, "Get-ExchangeServer").output


def test_a_waiting_receive_learns_that_its_shell_was_deleted(server: Server) -> None:
    server.tenant.settings["psrp_latency_seconds"] = {"get-mailbox": 60}
    pool = server.pool()
    pool.open()
    powershell = PowerShell(pool).add_cmdlet("Get-Mailbox")
    powershell.begin_invoke()
    failures: list[WSManFaultError] = []

    def wait() -> None:
        try:
            powershell.end_invoke()
        except WSManFaultError as error:
            failures.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    other = RunspacePool(server.connection(), configuration_name="Microsoft.Exchange")
    other.shell.id, other.shell._selector_set, other.shell.opened = pool.id, pool.shell._selector_set, True
    other.shell.close()
    waiting.join(10)
    assert [error.code for error in failures] == [SHELL_NOT_FOUND]


def test_a_wrong_password_is_refused_and_counted(server: Server) -> None:
    with pytest.raises(AuthenticationError):
        RunspacePool(server.connection(password=secrets.token_urlsafe(8))).open()
    assert server.tenant.accounts[USER].bad_passwords == 1


def test_a_locked_account_is_refused_with_its_right_password(server: Server) -> None:
    server.tenant.accounts[USER].state = SignInState.LOCKED
    with pytest.raises(AuthenticationError):
        server.pool().open()


def test_another_endpoint_than_exchange_is_unknown(server: Server) -> None:
    with pytest.raises(WSManFaultError, match="resource URI"):
        RunspacePool(server.connection(), configuration_name="Microsoft.PowerShell").open()


def test_an_envelope_beyond_the_cap_is_refused(server: Server) -> None:
    connection = server.connection(max_envelope_size=2_000_000)
    pool = RunspacePool(connection, configuration_name="Microsoft.Exchange")
    pool.open()
    powershell = PowerShell(pool).add_cmdlet("Get-Mailbox").add_parameter("Identity", "x" * 800_000)
    with pytest.raises(WSManFaultError, match="exceeds 512000 bytes"):
        powershell.invoke()
    pool.close()


def test_parameters_longer_than_one_fragment_arrive(server: Server) -> None:
    with server.pool() as pool:
        powershell = run(pool, "Get-Mailbox", Identity="x" * 900_000)
    assert "couldn't be found" in str(powershell.streams.error[0])


def test_a_shell_can_be_lost_in_the_middle(server: Server) -> None:
    server.tenant.settings["psrp_receive_bytes"] = 20_000
    server.fail("psrp.get-mailbox", "shell-lost", after=2)
    pool = server.pool()
    pool.open()
    powershell = PowerShell(pool).add_cmdlet("Get-Mailbox")
    with pytest.raises(WSManFaultError) as lost:
        powershell.invoke()
    assert lost.value.code == SHELL_NOT_FOUND
    assert 0 < len(powershell.output) < len(server.tenant.people) // 5


@pytest.mark.parametrize(
    ("route", "kind", "options", "error"),
    [
        ("wsman", "quota", {}, WSManFaultError),
        ("wsman", "error", {"status": 503}, WinRMTransportError),
        ("wsman", "reset", {}, Exception),
    ],
)
def test_a_fault_of_the_wire_reaches_the_client(
    server: Server, route: str, kind: str, options: dict[str, Any], error: type[Exception]
) -> None:
    server.fail(route, kind, **options)
    with pytest.raises(error):
        server.pool().open()


def test_a_warning_and_a_failure_can_come_in_the_middle(server: Server) -> None:
    server.tenant.settings["psrp_receive_bytes"] = 20_000
    with server.pool() as pool:
        server.fail("psrp.get-mailbox", "warning", after=1)
        warned = run(pool, "Get-Mailbox", ResultSize="Unlimited")
        server.fail("psrp.get-mailbox", "failed", after=1, text="The directory went away.")
        failed = run(pool, "Get-Mailbox", ResultSize="Unlimited")
    assert "Micro delay" in warned.streams.warning[0].message
    assert warned.state == PSInvocationState.COMPLETED
    assert failed.state == PSInvocationState.FAILED
    assert 0 < len(failed.output) < len(warned.output)


def test_the_pool_tells_its_limits_and_its_state(server: Server) -> None:
    with RunspacePool(server.connection(), configuration_name="Microsoft.Exchange", max_runspaces=2) as pool:
        assert pool.get_available_runspaces() == 2
        assert pool.is_alive()
