"""A furnished vault: a state directory with a vault key, a started run and its sealed credential."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgspec
import pytest
from desk import desk, laid_out

from crypto import credential, envelope
from crypto.credential import ServiceAccount
from crypto.opening import open_secret_store
from crypto.stores import EVENT_KEY, SecretStore, credential_name
from crypto.transit import TransitKey
from domain.events import (
    AnyEvent,
    CredentialSealed,
    RunRequested,
    RunStarted,
    TenantRegistered,
)
from domain.ids import (
    ENTRA,
    Dataset,
    RunId,
    Stream,
    TenantId,
    credential_stream,
    new_run_id,
    run_stream,
    tenant_stream,
)
from domain.settings import CLOUDS, Settings
from eventstore.store import EventStore, create_event_store, open_event_store
from vault.client import (
    Keyholder,
    connect,
    open_released,
    owner_process,
)
from vault.custody import create_passphrase, open_custody
from vault.holding import Holding
from vault.line import MAX_PATH, SOCKET, address
from vault.messages import CreateVaultKey, Release
from vault.policy import digest_of

__all__ = ["desk", "laid_out"]

CONTOSO = TenantId("11111111-2222-3333-4444-555555555555")
RUN = new_run_id(datetime(2026, 11, 22, 20, 30, tzinfo=UTC), 1)
STREAM = credential_stream(CONTOSO, ENTRA)


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class House:
    """A state directory with a vault key, a started run of one tenant and its sealed credential."""

    settings: Settings
    password: str = field(default_factory=lambda: token_hex(16))
    transit: TransitKey = field(default_factory=TransitKey.generate)
    tenant: TenantId = CONTOSO
    run: RunId = RUN
    stream: Stream = STREAM
    _open: list[Callable[[], None]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return Path(self.settings.state)

    @property
    def secrets(self) -> SecretStore:
        return open_secret_store(self.settings)

    def events(self) -> EventStore:
        store = open_event_store(self.settings.eventstore, self.secrets.get(EVENT_KEY))
        self._open.append(store.close)
        return store

    def append(self, stream: Stream, *events: AnyEvent) -> None:
        store = self.events()
        store.append(stream, len(store.read(stream)), events, at=now(), actor="operator:test", cause="test")

    def found(self, stream: Stream = STREAM) -> list[AnyEvent]:
        return [recorded.event for recorded in self.events().read(stream)]

    def holding(self, secrets: SecretStore | None = None) -> Holding:
        return Holding(self.events(), secrets or self.secrets, open_custody(self.settings), now)

    def keyholder(self) -> Keyholder:
        keyholder = connect(self.settings, idle_seconds=60)
        self._open.append(keyholder.close)
        return keyholder

    def seal(self, password: str, tenant: TenantId = CONTOSO) -> bytes:
        secret = credential.encode(ServiceAccount(username="reader@contoso.com", password=password))
        key = self.holding().keyring().active
        return envelope.seal(secret, tenant=tenant, slot=ENTRA, key=key).encode()

    def sealed(self, envelope: bytes) -> CredentialSealed:
        return CredentialSealed(
            tenant=CONTOSO,
            slot=ENTRA,
            kind="service-account",
            identity="reader@contoso.com",
            vault_key=self.holding().keyring().active.thumbprint,
            digest=digest_of(envelope),
        )

    def furnish(self) -> None:
        self.append(
            tenant_stream(CONTOSO),
            TenantRegistered(tenant=CONTOSO, name="Contoso", domain="contoso.com", cloud="public"),
        )
        self.append(
            run_stream(RUN),
            RunRequested(run=RUN, tenant=CONTOSO, datasets=(Dataset("entra.users"),)),
            RunStarted(activation="a1", epoch=1),
        )
        sealed = self.seal(self.password)
        self.secrets.put(credential_name(CONTOSO, ENTRA), sealed)
        self.append(STREAM, self.sealed(sealed))

    def request(self, **changed: Any) -> Release:
        return msgspec.structs.replace(
            Release(
                run=RUN,
                tenant=CONTOSO,
                slot=ENTRA,
                activation="a1",
                epoch=1,
                purpose="graph",
                transit_key=self.transit.public,
            ),
            **changed,
        )

    def password_in(self, sealed: bytes, activation: str = "a1", epoch: int = 1) -> str:
        opened = open_released(
            sealed, self.transit, run=RUN, tenant=CONTOSO, slot=ENTRA, activation=activation, epoch=epoch
        )
        assert isinstance(opened, ServiceAccount)
        return opened.password

    def connected(self) -> socket.socket:
        """A bare connection, for what no client would say."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(5)
        with address(self.state / SOCKET) as place:
            connection.connect(place)
        self._open.append(connection.close)
        return connection

    @staticmethod
    def wait_for_end(pid: int) -> None:
        """Returns when the process has ended: its pidfd becomes readable."""
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            assert select.select([handle], [], [], 10)[0], "the keyholder did not end"
        finally:
            os.close(handle)

    def killed(self, number: signal.Signals) -> int:
        """The process id of the keyholder, which has ended by this signal."""
        pid = owner_process(self.settings)
        assert pid is not None
        os.kill(pid, number)
        self.wait_for_end(pid)
        return pid

    def close(self) -> None:
        for close in self._open:
            close()
        if owner_process(self.settings) is not None:
            self.killed(signal.SIGTERM)


def settings_in(state: Path) -> Settings:
    return Settings(
        state=str(state),
        eventstore=f"sqlite://{state}/events.db",
        secrets=f"file://{state}/secrets",
        batches=f"file://{state}/batches",
        clouds=CLOUDS,
    )


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = House(settings_in(tmp_path_factory.mktemp("furnished") / "state"))
    create_passphrase(house.state / "keys" / "passphrase")
    house.secrets.put(EVENT_KEY, os.urandom(32))
    create_event_store(house.settings.eventstore)
    holding = house.holding()
    holding.create_vault_key(CreateVaultKey(actor="operator:test", cause="init"))
    holding.close()
    house.furnish()
    house.close()
    return house


@pytest.fixture
def empty_house(tmp_path: Path) -> Iterator[House]:
    """As it is before its first vault key."""
    house = House(settings_in(tmp_path))
    house.secrets.put(EVENT_KEY, os.urandom(32))
    create_event_store(house.settings.eventstore)
    yield house
    house.close()


@pytest.fixture
def house(furnished: House, tmp_path: Path) -> Iterator[House]:
    """So deep that the path of its socket does not fit an address."""
    state = tmp_path.joinpath(*["a-directory-with-a-long-name"] * 4)
    shutil.copytree(furnished.state, state)
    house = House(settings_in(state), furnished.password)
    assert len(str(state / SOCKET)) > MAX_PATH
    yield house
    house.close()
