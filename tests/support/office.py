"""Somebody at a keyboard, before a state directory and a simulated Microsoft 365."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import folds
import msgspec
import pytest
from estate import Estate
from studio import Near

from actors.collector import CollectorCore
from actors.tenant import TenantCore
from cli.main import main
from cli.state import stop_keyholder
from collectors.catalog import load_catalog
from crypto.credential import AppSecret
from domain.events import (
    AnyEvent,
    CredentialEvent,
    RunRequested,
)
from domain.ids import ENTRA, Dataset, Slot, TenantId, credential_stream, new_run_id, run_stream
from domain.run import Run
from eventstore.batches import open_batch_store
from simulator.server import Simulator
from simulator.world import SignInState, Tenant, World
from vault.client import Keyholder
from vault.messages import Release, ReleaseDataKey


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Office:
    """An estate, and a keyboard in front of it."""

    estate: Estate
    config: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def type(self, *words: str, stdin: str = "") -> Said:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        self.capsys.readouterr()
        code = main([*words, "--state", str(self.estate.directory), "--config", str(self.config)])
        return Said(code, *self.capsys.readouterr())

    def set(self, tenant: Tenant, credential: AppSecret, *options: str) -> Said:
        words = ["credential", "set", tenant.id, "--kind", "app-secret", "--client-id", credential.client_id]
        return self.type(*words, *options, stdin=credential.secret)

    def events(self, tenant: Tenant, slot: Slot = ENTRA) -> list[AnyEvent]:
        return [one.event for one in self.estate.state.store.read(credential_stream(TenantId(tenant.id), slot))]

    def asked(self, tenant: Tenant, route: str = "token") -> int:
        """Sign-ins that reached the service."""
        return sum(1 for of, by, _, _ in self.estate.simulator.world.requests if (of, by) == (tenant.id, route))

    def new_secret(self, tenant: Tenant) -> AppSecret:
        credential = self.estate.new_credential(tenant, "app-secret")
        assert isinstance(credential, AppSecret)
        return credential

    def append(self, tenant: Tenant, event: CredentialEvent, slot: Slot = ENTRA) -> None:
        store, stream = self.estate.state.store, credential_stream(TenantId(tenant.id), slot)
        store.append(
            stream, len(store.read(stream)), [event], at=datetime.now(UTC), actor="operator:test", cause="test"
        )

    def block(self, tenant: Tenant, state: SignInState) -> None:
        for account in tenant.accounts.values():
            account.state = state


def kinds(events: list[AnyEvent]) -> list[str]:
    return [type(event).__name__.removeprefix("Credential") for event in events]


@contextmanager
def furnished(directory: Path, world: World | None = None) -> Iterator[Estate]:
    with Simulator(world or World()) as simulator:
        made = Estate(simulator, directory / "state")
        yield made
        made.state.close()
        stop_keyholder(made.settings)


def at_work(
    estate: Estate, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Office:
    config = directory / "tenantry.toml"
    config.write_bytes(msgspec.toml.encode({"clouds": msgspec.to_builtins(estate.settings.clouds)}))
    return Office(estate, config, capsys, monkeypatch)


@dataclass
class Vault:
    """The keyholder, as a tenant actor asks it."""

    keyholder: Keyholder

    async def release(self, request: Release) -> bytes:
        return self.keyholder.release(request)

    async def release_data_key(self, request: ReleaseDataKey) -> bytes:
        return self.keyholder.release_data_key(request)


def collected(office: Office, tenant: Tenant, *names: str) -> Run:
    """A run of the tenant in this process, through the real keyholder."""
    settings, state = office.estate.settings, office.estate.state
    catalog = load_catalog(settings.catalog)
    run = new_run_id(datetime.now(UTC), secrets.randbits(32))
    event = RunRequested(run=run, tenant=TenantId(tenant.id), datasets=tuple(map(Dataset, names)))
    state.store.append(run_stream(run), 0, [event], at=datetime.now(UTC), actor="operator:test", cause=run)
    core = TenantCore(settings, state.store, Vault(state.keyholder), catalog, clock=lambda: datetime.now(UTC))
    near = Near(CollectorCore("near", open_batch_store(settings.batches), catalog))

    async def carry_out() -> None:
        await core.carry_out(run, {"graph": near, "exchange": near})
        await near.core.aclose()

    asyncio.run(carry_out())
    ended = folds.run(one.event for one in state.store.read(run_stream(run)))  # type: ignore[misc]
    assert ended is not None
    return ended
