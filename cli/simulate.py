"""`tenantry simulate`: the simulator alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from cli.command import Session
from cli.config import DEFAULT_STATE, FILE
from cli.simulated import SimulatedTenant, SimulatorProcess, Started, program

LISTED = 20
"""Tenants whose commands are shown."""


def simulate(
    session: Session,
    tenants: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="How many tenants.")] = 6,
    users: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="N", help="Users of each.")] = 500,
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="PORT", help="0: a free one.")] = 0,
    seed: Annotated[int, typer.Option(metavar="N", help="Same seed, same people and groups.")] = 1,
    directory: Annotated[Path, typer.Option(metavar="DIR", help="Where its certificates and credentials go.")] = Path(
        ".simulator"
    ),
) -> None:
    """Serve a simulated Microsoft 365 until Ctrl-C; print its cloud table and the commands that enrol its tenants.

    Example: `tenantry simulate --tenants 20 --users 1000 --port 8443`
    """
    arguments = [f"--{name}={value}" for name, value in (("tenants", tenants), ("users", users), ("seed", seed))]
    with SimulatorProcess(directory.absolute(), arguments, port) as simulator:
        started = simulator.started
        simulator.wait(lambda: session.print_json(started) if session.json else introduce(session, started))


def introduce(session: Session, started: Started) -> None:
    """What to put into the configuration and what to type."""
    clouds = {name: msgspec.to_builtins(cloud) for name, cloud in started.clouds.items()}
    session.say(f"For {FILE} in the state directory ({DEFAULT_STATE}/{FILE}), or in the current one:\n")
    typer.echo(msgspec.toml.encode({"clouds": clouds}).decode())
    cloud = next(iter(clouds))
    session.say(f"To enrol its tenants, after `{shlex.quote(program())} init`:\n")
    for one in started.tenants[:LISTED]:
        for command in enrolment(one, cloud, urlsplit(started.url).netloc):
            typer.echo(command)
    if len(started.tenants) > LISTED:
        session.say(f"... and {len(started.tenants) - LISTED} more: --json names them all.")
    session.say("\nIts credentials are new at each start: enrol again then, and give --port to keep its address.")
    session.say(f"\nThen: `{shlex.quote(program())} collect --all`.")
    session.say(f"Serving at {started.url}; controls at {started.url}/_simulator/. Ctrl-C stops it.")


def enrolment(one: SimulatedTenant, cloud: str, place: str) -> list[str]:
    """The commands that register a simulated tenant and set its credentials, as a shell takes them."""
    found = one.credential
    add = ["tenant", "add", one.id, "--domain", one.domain, "--name", one.name, "--cloud", cloud]
    if one.exchange_server:
        add += ["--exchange-server", place, "--exchange-auth", "basic"]
    who = ["--username", found.username] if found.username else []
    client = ["--client-id", found.client_id] if found.client_id else []
    commands = [(add, ""), (["credential", "set", one.id, "--kind", found.kind, *who, *client], found.file)]
    if account := one.exchange_server_credential:
        server = ["--slot", "exchange-server", "--kind", "service-account", "--username", account.username]
        commands.append((["credential", "set", one.id, *server], account.file))
    return [shlex.join([program(), *words]) + (f" < {shlex.quote(file)}" if file else "") for words, file in commands]
