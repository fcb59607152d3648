"""How fast a new vault key takes over where the envelopes are in an Azure Key Vault.

    python bench/keyvault.py [--credentials N] [--latency-ms N] [--json]

The vault is the simulator's, asked through Microsoft's client over HTTPS; each of its answers comes later by the given
latency. The keyholder is a process of its own, as ever. What limits the service besides is not simulated: a Key Vault
takes 300 new versions in ten seconds, whoever asks.
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    sys.path.pop(0)  # this directory: vault.py in it is not the package

import argparse
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from bench.measured import machine
from bench.vault import Estate, rotated
from simulator.credentials import register_secret_app
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import KEY_VAULT, Fault, Tenant, World
from vault.client import connect


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`resealed`: credentials a second, the last pass that only looks included. `requests`: that the vault answered
    meanwhile, for each credential."""

    command: str
    machine: dict[str, str | int]
    credentials: int
    latency_ms: int
    resealed_per_second: float
    longest_step_seconds: float
    requests_per_credential: float


@contextmanager
def key_vault() -> Iterator[tuple[Simulator, Tenant]]:
    """A simulated vault, and an identity that may use it in this process's environment."""
    now = datetime.now(UTC).replace(microsecond=0)
    home = populate(seed=1, name="Home", users=1, now=now)
    home.settings["key_vault"] = True
    app, secret = register_secret_app(home, "tenantry", now + timedelta(days=1))
    app.consented.add(KEY_VAULT)
    os.environ |= {
        "AZURE_TENANT_ID": home.id,
        "AZURE_CLIENT_ID": app.client_id,
        "AZURE_CLIENT_SECRET": secret,
    }
    with Simulator(World(tenants={home.id: home})) as simulator:
        yield simulator, home


def measured(directory: Path, options: argparse.Namespace) -> Result:
    with key_vault() as (simulator, home):
        changes = {
            "secrets": simulator.url,
            "secrets_authority": simulator.url,
            "secrets_ca_bundle": str(simulator.ca_file),
        }
        estate = Estate(directory / "state", options.credentials, changes)
        with connect(estate.settings) as keyholder:
            keyholder.health()
            slow = Fault("slow", times=None, options={"seconds": options.latency_ms / 1000})
            simulator.world.faults[home.id, "*"] = [slow]
            before = simulator.world.counters.total()
            resealed, longest = rotated(keyholder, options.credentials)
            answered = simulator.world.counters.total() - before
    return Result(
        command=shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        machine=machine(),
        credentials=options.credentials,
        latency_ms=options.latency_ms,
        resealed_per_second=resealed,
        longest_step_seconds=longest,
        requests_per_credential=answered / options.credentials,
    )


def shown(result: Result) -> str:
    where = result.machine
    return (
        f"{where['cpu']}, {where['cores']} cores (load {where['load']}), {where['system']}, Python {where['python']}\n"
        f"{where['date']}  {result.command}\n\n"
        f"{result.credentials:,} credentials in a Key Vault that answers {result.latency_ms} ms later: "
        f"{result.resealed_per_second:,.1f} resealed a second, longest step {result.longest_step_seconds:.2f} s, "
        f"{result.requests_per_credential:.1f} requests each\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="the rate of a key rotation with the envelopes in a Key Vault")
    parser.add_argument("--credentials", type=int, default=1_000, help="stored credentials to reseal (1000)")
    parser.add_argument("--latency-ms", type=int, default=20, help="what each answer takes longer (20)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    options = parser.parse_args()
    if not (1 <= options.credentials <= 100_000 and 0 <= options.latency_ms <= 10_000):
        parser.error("credentials: 1 to 100000, latency: 0 to 10000")
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as directory:
        result = measured(Path(directory), options)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    else:
        sys.stdout.write(shown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
