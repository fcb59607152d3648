"""The vector file asked of a keyholder in its own process, through its socket.

Each envelope is stored as whoever may write secrets could store it, recorded as the tenant's credential, and asked for
by a run of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from secrets import token_bytes

import msgspec
import pytest
from vectors import (
    BAD,
    GOOD,
    WHY,
    changed_anywhere,
    keyring,
    named,
    of_jwcrypto,
    opened_secret,
    oversize,
    private_key,
)

from cli.state import stop_keyholder
from crypto import credential as payloads
from crypto.jwe import SIZES
from crypto.keyring import encode_private
from crypto.opening import open_secret_store
from crypto.stores import EVENT_KEY, MemorySecretStore, credential_name
from crypto.transit import TransitKey
from domain.errors import EnvelopeRejected
from domain.events import (
    AnyEvent,
    CredentialReleased,
    CredentialSealed,
    ReleaseDenied,
    RunRequested,
    RunStarted,
    TenantRegistered,
    VaultKeyActivated,
    VaultKeyCreated,
)
from domain.ids import (
    ENTRA,
    VAULT_KEYS,
    Dataset,
    Slot,
    Stream,
    TenantId,
    credential_stream,
    new_run_id,
    run_stream,
    tenant_stream,
)
from domain.settings import CLOUDS, Settings
from eventstore.store import Append, EventStore, create_event_store, open_event_store
from vault.client import Keyholder, connect, open_released
from vault.custody import FILE, create_passphrase, open_custody, read_passphrase
from vault.holding import Holding
from vault.messages import Release
from vault.policy import digest_of

KEY = keyring().active.thumbprint
KEY_EVENTS: list[AnyEvent] = [VaultKeyCreated(key=KEY, version=1, custody=FILE), VaultKeyActivated(key=KEY)]
TRANSIT = TransitKey.generate()
PURPOSES = {ENTRA: "graph"}
DATASETS = (Dataset("entra.users"), Dataset("onprem.mailboxes"))


def now() -> datetime:
    return datetime.now(UTC)


class Vault:
    """`put` stores an envelope under its name, `release` asks the keyholder for it."""

    def __init__(
        self, events: EventStore, put: Callable[[str, bytes], object], release: Callable[[Release], bytes]
    ) -> None:
        self._events = events
        self._put = put
        self._release = release
        self._runs = count(1)
        self._versions: Counter[Stream] = Counter()

    def append(self, streams: dict[Stream, list[AnyEvent]]) -> None:
        appends = [Append(stream, self._version(stream), events) for stream, events in streams.items()]
        self._events.append_all(appends, at=now(), actor="operator:test", cause="test")

    def _version(self, stream: Stream) -> int:
        self._versions[stream] += len(self._events.read(stream, self._versions[stream]))
        return self._versions[stream]

    def asked(self, vector: dict[str, str]) -> tuple[Release, bytes]:
        """The request, and its answer: the payload, sealed to who asked."""
        tenant, slot = TenantId(vector["tenant"]), Slot(vector["slot"])
        if not self._version(tenant_stream(tenant)):
            registered = TenantRegistered(tenant=tenant, name="N", domain="n.com", cloud="public")
            self.append({tenant_stream(tenant): [registered]})
        stored = vector["envelope"].encode()
        self._put(credential_name(tenant, slot), stored)
        run = new_run_id(now(), next(self._runs))
        sealed = CredentialSealed(
            tenant=tenant, slot=slot, kind="app-secret", identity="any", vault_key=KEY, digest=digest_of(stored)
        )
        requested = RunRequested(run=run, tenant=tenant, datasets=DATASETS)
        self.append(
            {
                run_stream(run): [requested, RunStarted(activation="a1", epoch=1)],
                credential_stream(tenant, slot): [sealed],
            }
        )
        request = Release(
            run=run,
            tenant=tenant,
            slot=slot,
            activation="a1",
            epoch=1,
            purpose=PURPOSES.get(slot, "exchange-server"),
            transit_key=TRANSIT.public,
        )
        return request, self._release(request)

    def opened(self, vector: dict[str, str]) -> payloads.Payload:
        """As the tenant actor gets it."""
        request, sealed = self.asked(vector)
        return open_released(
            sealed, TRANSIT, run=request.run, tenant=request.tenant, slot=request.slot, activation="a1", epoch=1
        )

    def recorded(self, vector: dict[str, str]) -> list[AnyEvent]:
        """The last two events of the credential."""
        stream = credential_stream(TenantId(vector["tenant"]), Slot(vector["slot"]))
        return [one.event for one in self._events.read(stream, self._version(stream) - 2)]


class House:
    """A state directory with the file's key in its custody, and a keyholder at work in it."""

    def __init__(self, state: Path) -> None:
        self.settings = Settings(
            state=str(state),
            eventstore=f"sqlite://{state}/events.db",
            secrets=f"file://{state}/secrets",
            batches=f"file://{state}/batches",
            clouds=CLOUDS,
        )
        keys = state / "keys"
        create_passphrase(keys / "passphrase")
        with read_passphrase(keys / "passphrase") as passphrase:
            (keys / f"{KEY}.pem").write_bytes(encode_private(private_key(), passphrase))
        secrets = open_secret_store(self.settings)
        secrets.put(EVENT_KEY, token_bytes(32))
        create_event_store(self.settings.eventstore)
        self.events = open_event_store(self.settings.eventstore, secrets.get(EVENT_KEY))
        self.keyholder: Keyholder = connect(self.settings)
        self.vault = Vault(self.events, self._put, self.keyholder.release)
        self.vault.append({VAULT_KEYS: KEY_EVENTS})
        self.process = self.keyholder.health().pid

    def _put(self, name: str, value: bytes) -> None:
        """Not through the store, which takes nothing empty and nothing over 25 KB."""
        content = {"version": "planted", "tags": {}, "value": value}
        (Path(self.settings.state) / "secrets" / f"{name}.secret").write_bytes(msgspec.json.encode(content))

    def serves(self) -> bool:
        """The very process that served at first."""
        return self.keyholder.health().pid == self.process

    def close(self) -> None:
        self.keyholder.close()
        stop_keyholder(self.settings)
        self.events.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("vectors"))
    yield house
    house.close()


@pytest.mark.parametrize("good", GOOD, ids=named)
def test_the_keyholder_releases_an_envelope_of_any_maker(house: House, good: dict[str, str]) -> None:
    assert house.vault.opened(good) == payloads.decode(opened_secret(good))
    assert isinstance(house.vault.recorded(good)[-1], CredentialReleased)
    assert house.serves()


@pytest.mark.parametrize("bad", [oversize(), *(bad for bad in BAD if bad["why"] != "payload")], ids=named)
def test_the_keyholder_refuses_on_record_what_opens_nowhere_and_goes_on(house: House, bad: dict[str, str]) -> None:
    with pytest.raises(EnvelopeRejected, match=WHY[bad["why"]]):
        house.vault.asked(bad)
    released, denied = house.vault.recorded(bad)
    assert isinstance(released, CredentialReleased)
    assert denied == ReleaseDenied(run=released.run, activation="a1", why="envelope-rejected")
    assert house.serves()


@pytest.mark.parametrize("bad", [bad for bad in BAD if bad["why"] == "payload"], ids=named)
def test_a_payload_that_is_no_credential_is_released_on_record_and_refused_by_who_asked_for_it(
    house: House, bad: dict[str, str]
) -> None:
    """The keyholder does not look into what it passes on."""
    with pytest.raises(EnvelopeRejected, match=WHY["payload"]):
        house.vault.opened(bad)
    assert isinstance(house.vault.recorded(bad)[-1], CredentialReleased)
    assert house.serves()


@pytest.mark.parametrize("enc", SIZES)
def test_a_byte_changed_anywhere_in_an_envelope_is_refused_on_record(house: House, enc: str) -> None:
    """In this process, and with stores in memory: there are hundreds."""
    events, secrets = open_event_store("memory:", token_bytes(32)), MemorySecretStore()
    holding = Holding(events, secrets, open_custody(house.settings), now)
    vault = Vault(events, secrets.put, lambda request: holding.release(request, "uid:0").payload)
    vault.append({VAULT_KEYS: KEY_EVENTS})
    good = of_jwcrypto(enc)
    for changed in changed_anywhere(good):
        with pytest.raises(EnvelopeRejected):
            vault.asked(changed)
        _, denied = vault.recorded(good)
        assert isinstance(denied, ReleaseDenied)
        assert denied.why == "envelope-rejected"
    assert vault.opened(good) == payloads.decode(opened_secret(good))
