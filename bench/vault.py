"""Releases a second through the vault actor, beside the bare cost of one; and how fast a new vault key takes over.

    python bench/vault.py [--releases N] [--credentials N] [--rounds N] [--json]

A release is what a tenant actor asks for: a call of the vault actor, a request on the keyholder's Unix socket, the
checks on run, tenant and credential, `CredentialReleased` appended and synced, the envelope read and opened, the
answer sealed to the asker. Eight are under way at a time, as with eight tenant actors; the socket alone is asked one
after the other. The bare cost is one RSA-3072 unwrap, one HPKE seal and one synced append, in this process. They
alternate. Afterwards a new vault key is made active and everything stored is sealed to it.
Exit code 1 when a requirement does not hold.
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    sys.path.pop(0)  # this directory: vault.py in it is not the package

import argparse
import os
import secrets
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from bench.measured import machine, peak_mib
from crypto import credential, envelope, transit
from crypto.credential import ServiceAccount
from crypto.keyring import LocalKey, VaultPublicKey, generate_private, parse_public
from crypto.opening import open_secret_store
from crypto.secret import Secret
from crypto.stores import EVENT_KEY, credential_name
from crypto.transit import TransitKey
from domain.events import CredentialReleased, CredentialSealed, RunCancelled, RunRequested, RunStarted, TenantRegistered
from domain.ids import ENTRA, Dataset, RunId, Stream, TenantId, credential_stream, new_run_id, run_stream, tenant_stream
from domain.settings import CLOUDS, Settings
from eventstore.mapper import KEY_BYTES
from eventstore.store import Append, EventStore, create_event_store, open_event_store
from vault.client import Keyholder, connect
from vault.custody import create_passphrase
from vault.messages import Release
from vault.policy import digest_of

LEAST_RATIO = 0.4
LEAST_RESEALED = 200.0
MOST_GROWTH_BYTES = 1_000
"""Of the keyholder's peak, for each credential that is resealed: the list of their names is what it may keep."""
LEAST_GROWTH_MIB = 8.0
"""What a peak varies by in any case: a page of names, SQLite's cache, the allocator."""
AT_ONCE = 8
"""Releases under way through the vault actor."""
PER_TENANT = 4
"""Releases of one tenant in a round, to its one run and one after the other, as its actor asks."""
PAGE = 500
BY = ("operator:bench", "bench")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the rounds; `actor`, `socket` and `bare` are each round's, a second. `ratio`: of the actor to bare.
    `resealed`: credentials a second. `peak_mib`: of the keyholder, with interpreter and libraries."""

    command: str
    machine: dict[str, str | int]
    actor_per_second: float
    socket_per_second: float
    bare_per_second: float
    ratio: float
    credentials: int
    resealed_per_second: float
    longest_step_seconds: float
    peak_before_mib: float
    peak_mib: float
    actor: list[float]
    socket: list[float]
    bare: list[float]
    problems: list[str]


class Estate:
    """A state directory with a vault key and as many sealed credentials as asked for. `changes`: to its settings."""

    def __init__(self, directory: Path, credentials: int, changes: Mapping[str, str] = {}) -> None:
        settings = Settings(
            state=str(directory),
            eventstore=f"sqlite://{directory}/events.db",
            secrets=f"file://{directory}/secrets",
            batches=f"file://{directory}/batches",
            clouds=CLOUDS,
            tenant_actors=1,
        )
        self.settings = msgspec.structs.replace(settings, **changes)
        self.transit = TransitKey.generate()
        self._number = 0
        self._under_way: list[RunId] = []
        create_passphrase(directory / "keys" / "passphrase")
        store = open_secret_store(self.settings)
        store.put(EVENT_KEY, os.urandom(KEY_BYTES))
        create_event_store(self.settings.eventstore)
        with connect(self.settings) as keyholder:
            keyholder.create_vault_key(*BY)
            key = parse_public(keyholder.public_keys())
        self.tenants = [TenantId(str(UUID(int=number))) for number in range(credentials)]
        with self.events() as events:
            for begin in range(0, credentials, PAGE):
                self._seal(self.tenants[begin : begin + PAGE], key, events)

    def _seal(self, tenants: Sequence[TenantId], key: VaultPublicKey, events: EventStore) -> None:
        store = open_secret_store(self.settings)
        appends: list[Append] = []
        for tenant in tenants:
            account = ServiceAccount(username="reader@contoso.com", password=secrets.token_urlsafe(24))
            sealed = envelope.seal(credential.encode(account), tenant=tenant, slot=ENTRA, key=key).encode()
            store.put(credential_name(tenant, ENTRA), sealed)
            registered = TenantRegistered(tenant=tenant, name="Contoso", domain="contoso.com", cloud="public")
            recorded = CredentialSealed(
                tenant=tenant,
                slot=ENTRA,
                kind="service-account",
                identity=account.username,
                vault_key=key.thumbprint,
                digest=digest_of(sealed),
            )
            appends.append(Append(tenant_stream(tenant), 0, [registered]))
            appends.append(Append(credential_stream(tenant, ENTRA), 0, [recorded]))
        append(events, appends)

    def events(self) -> EventStore:
        return open_event_store(self.settings.eventstore, open_secret_store(self.settings).get(EVENT_KEY))

    def requests(self, count: int) -> list[Release]:
        """Of runs that start now; those of the requests before end."""
        made = [
            (new_run_id(datetime.now(UTC), self._number + place), tenant)
            for place, tenant in enumerate(self.tenants[: -(-count // PER_TENANT)])
        ]
        appends = [Append(run_stream(run), 2, [RunCancelled(reason="measured")]) for run in self._under_way]
        appends += [started(run, tenant) for run, tenant in made]
        with self.events() as events:
            for begin in range(0, len(appends), PAGE):
                append(events, appends[begin : begin + PAGE])
        self._number += len(made)
        self._under_way = [run for run, _ in made]
        return [
            Release(
                run=run,
                tenant=tenant,
                slot=ENTRA,
                activation="bench",
                epoch=1,
                purpose="graph",
                transit_key=self.transit.public,
            )
            for place in range(count)
            for run, tenant in [made[place % len(made)]]
        ]


def started(run: RunId, tenant: TenantId) -> Append:
    requested = RunRequested(run=run, tenant=tenant, datasets=(Dataset("entra.users"),))
    return Append(run_stream(run), 0, [requested, RunStarted(activation="bench", epoch=1)])


def append(events: EventStore, appends: Sequence[Append]) -> None:
    events.append_all(appends, at=datetime.now(UTC), actor="operator:bench", cause="bench")


class Bare:
    """One RSA-3072 unwrap, one HPKE seal, one append to an event store of its own on the same disk."""

    def __init__(self, directory: Path) -> None:
        private = generate_private()
        self._key = LocalKey(private)
        self._wrapped = private.public_key().encrypt(os.urandom(32), LocalKey._PADDING)
        self._payload = Secret(os.urandom(200))
        self._transit = TransitKey.generate()
        url = f"sqlite://{directory}/bare.db"
        create_event_store(url)
        self._events = open_event_store(url, os.urandom(KEY_BYTES))
        self._versions = 0

    def times(self, count: int) -> None:
        for _ in range(count):
            self.once()

    def once(self) -> None:
        self._key.unwrap(self._wrapped)
        transit.seal(self._transit.public, self._payload, b"context")
        self._versions += 1
        event = CredentialReleased(run=RunId("run"), activation="a", epoch=1, purpose="graph", transit_key="0" * 64)
        append(self._events, [Append(Stream("credential:bare"), self._versions - 1, [event])])

    def close(self) -> None:
        self._events.close()


def rate(count: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return count / (time.perf_counter() - begun)


@contextmanager
def vault_actor(settings: Settings) -> Iterator[Callable[[Sequence[Release]], None]]:
    from actors.system import NAMESPACE, System

    with System(settings):
        import ray

        actor = ray.get_actor("vault", NAMESPACE)

        def ask(requests: Sequence[Release]) -> None:
            asked = list(requests)
            waiting: list[Any] = [actor.release.remote(asked.pop()) for _ in range(min(AT_ONCE, len(asked)))]
            while waiting:
                done, waiting = ray.wait(waiting)
                ray.get(done)
                waiting += [actor.release.remote(asked.pop()) for _ in done if asked]

        yield ask


def measured(directory: Path, options: argparse.Namespace) -> Result:
    estate = Estate(directory / "state", options.credentials)
    bare = Bare(directory)
    rounds: dict[str, list[float]] = {"actor": [], "socket": [], "bare": []}
    with ExitStack() as stack:
        stack.callback(bare.close)
        keyholder = stack.enter_context(connect(estate.settings))
        actor = stack.enter_context(vault_actor(estate.settings))
        count = options.releases
        actor(estate.requests(PER_TENANT))
        for _ in range(options.rounds):
            rounds["bare"].append(rate(count, partial(bare.times, count)))
            for name, ask in (("socket", lambda asked: [keyholder.release(one) for one in asked]), ("actor", actor)):
                requests = estate.requests(count)
                rounds[name].append(rate(count, partial(ask, requests)))
        pid = keyholder.health().pid
        before = peak_mib(pid)
        resealed, longest = rotated(keyholder, options.credentials)
        return compared(options, rounds, resealed=resealed, longest=longest, before=before, peak=peak_mib(pid))


def rotated(keyholder: Keyholder, credentials: int) -> tuple[float, float]:
    """Credentials a second, the last pass that only looks included, and the longest step."""
    former = keyholder.health().active
    keyholder.rotate_vault_key(*BY)
    begun = last = time.perf_counter()
    resealed, longest = 0, 0.0
    for step in keyholder.reseal(*BY):
        now = time.perf_counter()
        resealed, longest, last = resealed + step.resealed, max(longest, now - last), now
    seconds = time.perf_counter() - begun
    if resealed != credentials:
        raise RuntimeError(f"there are {credentials} credentials, {resealed} were resealed")
    keyholder.retire_vault_key(former, *BY)
    keyholder.destroy_vault_key(former, *BY)
    return resealed / seconds, longest


def compared(
    options: argparse.Namespace,
    rounds: dict[str, list[float]],
    *,
    resealed: float,
    longest: float,
    before: float,
    peak: float,
) -> Result:
    medians = {name: statistics.median(found) for name, found in rounds.items()}
    ratio = medians["actor"] / medians["bare"]
    problems = []
    if ratio < LEAST_RATIO:
        problems.append(f"ratio {ratio:.2f} is below {LEAST_RATIO}")
    if resealed < LEAST_RESEALED:
        problems.append(f"{resealed:.0f} credentials resealed a second are below {LEAST_RESEALED:.0f}")
    growth, most = peak - before, LEAST_GROWTH_MIB + options.credentials * MOST_GROWTH_BYTES / (1 << 20)
    if growth > most:
        problems.append(f"the keyholder grew by {growth:.0f} MiB, more than {most:.0f}")
    return Result(
        command=shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        machine=machine(),
        actor_per_second=medians["actor"],
        socket_per_second=medians["socket"],
        bare_per_second=medians["bare"],
        ratio=ratio,
        credentials=options.credentials,
        resealed_per_second=resealed,
        longest_step_seconds=longest,
        peak_before_mib=before,
        peak_mib=peak,
        **rounds,
        problems=problems,
    )


def shown(result: Result) -> str:
    where = result.machine
    lines = [
        f"{where['cpu']}, {where['cores']} cores (load {where['load']}), {where['system']}, Python {where['python']}",
        f"{where['date']}  {result.command}",
        "",
        f"{f'median of {len(result.bare)}':<14}{'a second':>10}   each round",
        row("vault actor", result.actor_per_second, result.actor),
        row("socket alone", result.socket_per_second, result.socket),
        row("bare cost", result.bare_per_second, result.bare),
        "",
        f"vault actor / bare cost: {result.ratio:.2f}, required {LEAST_RATIO}",
        f"{result.credentials:,} credentials sealed to a new vault key: {result.resealed_per_second:,.0f} a second, "
        f"required {LEAST_RESEALED:.0f}; longest step {result.longest_step_seconds:.2f} s",
        f"peak of the keyholder: {result.peak_mib:.0f} MiB, {result.peak_before_mib:.0f} before the rotation",
        *(f"NOT HELD: {problem}" for problem in result.problems),
    ]
    return "\n".join(lines) + "\n"


def row(name: str, median: float, rounds: Sequence[float]) -> str:
    return f"{name:<14}{median:>10,.0f}   {', '.join(f'{one:,.0f}' for one in rounds)}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="releases/s beside their bare cost, and the rate of a key rotation")
    parser.add_argument("--releases", type=int, default=400, help="releases in a round (400)")
    parser.add_argument("--credentials", type=int, default=10_000, help="stored credentials to reseal (10000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (5)")
    parser.add_argument("--directory", default="", help="where to work, on the disk to be measured (a temporary one)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    options = parser.parse_args()
    if not (1 <= options.releases <= 100_000 and 1 <= options.credentials <= 100_000 and 1 <= options.rounds <= 100):
        parser.error("releases and credentials: 1 to 100000, rounds: 1 to 100")
    if options.releases > options.credentials * PER_TENANT:
        parser.error(f"{PER_TENANT} releases for each credential at most")
    return options


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-", dir=options.directory or None) as directory:
        result = measured(Path(directory), options)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    else:
        sys.stdout.write(shown(result))
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
