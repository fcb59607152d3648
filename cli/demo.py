"""`tenantry demo`: the main job against the simulator, from an empty directory to a verified log."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from cli.collect import carry_out, request
from cli.command import FAILED, Session, flag
from cli.config import FILE, Effective, load
from cli.data import tables_of
from cli.demo_pages import failures, further, outcome_lines, past, step, trail
from cli.files import refused, write_atomically
from cli.intake import certificate_payload
from cli.ledger import sign_checkpoint, verified
from cli.sealing import make, store_sealed
from cli.simulated import SimulatedTenant, SimulatorProcess
from cli.state import State, initialise, opened, stop_keyholder
from cli.tenant import register
from cli.trail import facts
from cli.views import run_object
from crypto import credential as payloads
from domain.errors import NotAllowed
from domain.events import ExchangeServer, TenantRegistered
from domain.ids import ENTRA, EXCHANGE_SERVER, Dataset, slot, tenant_id
from projections.runs import RunRow
from query.tables import table_of

DIRECTORY = ".tenantry-demo"
COUNTS = "demo.json"
MARK = "made-by-tenantry-demo"
MARKED = "This directory was made by `tenantry demo`, and the next `tenantry demo` deletes it.\n"
CLOUD = "simulator"
TRUTHS = {
    Dataset("entra.organization"): "organization",
    Dataset("entra.users"): "users",
    Dataset("entra.groups"): "groups",
    Dataset("entra.subscribed-skus"): "subscribed-skus",
    Dataset("entra.group-owners"): "group-owners",
    Dataset("reports.active-users"): "active-users",
    Dataset("exchange.mailboxes"): "mailboxes",
    Dataset("exchange.mailbox-statistics"): "mailbox-statistics",
    Dataset("exchange.transport-rules"): "transport-rules",
    Dataset("onprem.mailboxes"): "onprem-mailboxes",
    Dataset("onprem.receive-connectors"): "receive-connectors",
}
"""Dataset to what the simulator calls it. Sign-ins go on while they are read, so their number is no truth."""
SIGN_INS_PER_DAY = 100
"""Of each tenant: thirty days of them stay below what five requests in ten seconds can read at once."""


def demo(
    session: Session,
    tenants: Annotated[int, typer.Option(min=5, max=64, metavar="N", help="Simulated tenants.")] = 6,
    users: Annotated[int, typer.Option(min=10, max=100_000, metavar="N", help="Users of each.")] = 500,
    serve: Annotated[bool, flag("--serve", help="Let the simulator run on until Ctrl-C.")] = False,
) -> None:
    """Collect simulated tenants, change their data, collect again, and show what is on record.

    Works in .tenantry-demo/, which the other commands can go on using: `tenantry --help`. Exit code 1 when what was
    collected is not what there is, or the log does not verify.

    Example: `tenantry demo --tenants 10 --users 2000`
    """
    begun = time.monotonic()
    directory = fresh_directory(session.effective)
    arguments = ["--tenants", str(tenants), "--users", str(users)]
    with SimulatorProcess(directory / "simulator", arguments) as simulator:
        step(session, f"A simulated Microsoft 365 at {simulator.started.url}: {tenants} tenants, {users} users each")
        settings = load(str(directory), None, configured(directory, simulator), Path.cwd()).settings
        initialise(settings)
        session = replace(session, effective=Effective(settings, {}))
        state = opened(session)
        enrolled = enrol(session, state, simulator)
        first = collected(session, state, enrolled, "First collection: everything")
        before = state.store.last_position()
        changed = simulator.change(0.01)
        session.say(f"\nThe simulated tenants change by 1 %: {facts(changed)}")
        second = collected(session, state, enrolled, "Second collection: only what changed")
        names = {one.id: one.name for one in simulator.started.tenants}
        failures(session, [*first, *second], names)
        counts = compared(session, state, simulator, [row.tenant for row in second if row.state == "finished"])
        write_atomically(directory / COUNTS, msgspec.json.format(msgspec.json.encode(counts), indent=2), 0o600)
        trail(session, state, enrolled[0], names[enrolled[0]])
        past(session, state, enrolled[0], names[enrolled[0]], before)
        result = verified(state, [])
        step(session, "The log proves itself")
        mark, style = ("verified", "green") if result.ok else ("NOT what was written", "red")
        session.say(f"{result.events} events, {result.checkpoints} checkpoints: {mark}", style)
        stop_keyholder(settings)
        if serve:
            simulator.wait(lambda: session.say("The simulator serves on. Ctrl-C stops it."))
    further(session, enrolled[0], time.monotonic() - begun)
    if session.json:
        session.print_json(
            {
                "first": [run_object(row) for row in first],
                "second": [run_object(row) for row in second],
                "counts": counts,
                "verification": result,
            }
        )
    if not result.ok or any(one["collected"] != one["truth"] for one in counts):
        raise typer.Exit(FAILED)


def fresh_directory(effective: Effective) -> Path:
    """The demo's directory, without what an earlier demo left; anybody else's directory is refused."""
    chosen = effective.settings.state if effective.origins["state"] != "default" else DIRECTORY
    directory = Path.cwd() / chosen
    try:
        if directory.exists() and any(directory.iterdir()):
            if not _marked(directory):
                raise NotAllowed("run the demo", f"{directory} is not an earlier demo's", "Give another with --state.")
            stop_keyholder(msgspec.structs.replace(effective.settings, state=str(directory)))
            shutil.rmtree(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(directory / MARK, MARKED.encode(), 0o600)
    except OSError as error:
        raise refused(f"run the demo in {directory}", directory, error) from error
    return directory


def _marked(directory: Path) -> bool:
    with suppress(FileNotFoundError):
        return (directory / MARK).read_bytes() == MARKED.encode()
    return False


def configured(directory: Path, simulator: SimulatorProcess) -> dict[str, str]:
    """Writes the simulator's cloud into the directory's `tenantry.toml`; the environment without other settings."""
    cloud = next(iter(simulator.started.clouds.values()))
    toml = msgspec.toml.encode({"clouds": {CLOUD: msgspec.to_builtins(cloud)}})
    write_atomically(directory / FILE, toml, 0o600)
    return {name: value for name, value in os.environ.items() if not name.startswith("TENANTRY_")}


def enrol(session: Session, state: State, simulator: SimulatorProcess) -> list[str]:
    """Registers every simulated tenant and seals its credentials to the vault's key; their ids.

    The files that the simulator made them in are then deleted: from here on they exist sealed only.
    """
    step(session, "Tenants registered, credentials sealed to the vault's public key")
    lines = []
    for one in simulator.started.tenants:
        simulator.set_up(one.id, {"sign_ins_per_day": SIGN_INS_PER_DAY})
        server = exchange_server(state, one)
        register(
            state,
            TenantRegistered(
                tenant=tenant_id(one.id), name=one.name, domain=one.domain, cloud=CLOUD, exchange_server=server
            ),
        )
        sealed = {ENTRA: payload(one)}
        if account := one.exchange_server_credential:
            sealed[EXCHANGE_SERVER] = payloads.ServiceAccount(
                username=account.username, password=Path(account.file).read_text().strip()
            )
        for which, secret in sealed.items():
            store_sealed(state, make(tenant_id(one.id), slot(which), state.public_key(), secret))
        lines.append(
            {
                "tenant": one.id,
                "name": one.name,
                "credential": one.credential.kind,
                "exchange_server": "yes" if server else "no",
            }
        )
    if not session.json:
        session.show(lines, ("tenant", "name", "credential", "exchange_server"), "")
    shutil.rmtree(state.directory / "simulator" / "credentials")
    return [one.id for one in simulator.started.tenants]


def payload(one: SimulatedTenant) -> payloads.Payload:
    text = Path(one.credential.file).read_text().strip()
    match one.credential.kind:
        case "app-certificate":
            return certificate_payload(one.credential.client_id, text)
        case "app-secret":
            return payloads.AppSecret(client_id=one.credential.client_id, secret=text)
        case "service-account":
            client = {"client_id": one.credential.client_id} if one.credential.client_id else {}
            return payloads.ServiceAccount(username=one.credential.username, password=text, **client)


def exchange_server(state: State, one: SimulatedTenant) -> ExchangeServer | None:
    if not one.exchange_server:
        return None
    place = urlsplit(state.settings.clouds[CLOUD].exchange)
    return ExchangeServer(host=place.hostname or "localhost", port=place.port or 443, auth="basic")


def collected(session: Session, state: State, enrolled: Sequence[str], title: str) -> list[RunRow]:
    step(session, title)
    begun = time.monotonic()
    asked = {one: state.tenant(one) for one in enrolled}
    rows = carry_out(session, state, request(state, list(asked.values()), [], full=False))
    sign_checkpoint(state, "demo")
    rows.sort(key=lambda row: enrolled.index(row.tenant))
    if not session.json:
        session.show(
            [line for row in rows for line in outcome_lines(row, asked[row.tenant].name)],
            ("tenant", "dataset", "outcome", "rows", "requests", "seconds", "why"),
            "",
        )
        total = sum(one.rows for row in rows for one in row.datasets)
        requests = sum(one.requests for row in rows for one in row.datasets)
        seconds = time.monotonic() - begun
        session.say(f"{total:,} rows, {requests:,} requests, {seconds:.1f} s with starting the actors")
    return rows


def compared(
    session: Session, state: State, simulator: SimulatorProcess, tenants: Sequence[str]
) -> list[dict[str, object]]:
    """Rows that were collected, and rows that there are, of each dataset over the tenants that could be collected."""
    step(session, "Rows collected, and rows there are in the simulated Microsoft 365")
    tables = tables_of(state, [state.tenant(one) for one in tenants], "demo: compare with the truth")
    counts: list[dict[str, object]] = []
    for dataset, name in TRUTHS.items():
        result = asyncio.run(tables.sql(f"select count(*) from {table_of(dataset)}"))  # noqa: S608 - our own names
        truth = sum(simulator.truth(tenant, name) for tenant in tenants)
        counts.append({"dataset": dataset, "collected": result.rows[0][0], "truth": truth})
    if not session.json:
        session.show(counts, ("dataset", "collected", "truth"), "")
        session.say("audit.sign-ins is a window of thirty days that moves while it is read: it is not compared.")
    return counts
