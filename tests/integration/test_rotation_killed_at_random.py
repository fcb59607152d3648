"""A rotation whose keyholder is killed at random points of the resealing, while credentials are released all along."""

from __future__ import annotations

import secrets
import signal
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from itertools import count
from random import Random
from statistics import median
from threading import Condition
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

from crypto import credential, datakey, envelope
from crypto.credential import ServiceAccount
from crypto.keyring import Keyring
from crypto.secret import Secret
from crypto.stores import credential_name, data_key_name
from domain.events import (
    AnyEvent,
    CredentialResealed,
    CredentialSealed,
    RunCancelled,
    RunRequested,
    RunStarted,
    TenantRegistered,
)
from domain.ids import ENTRA, Dataset, Stream, TenantId, credential_stream, new_run_id, run_stream, tenant_stream
from eventstore.store import Append
from vault.client import open_released
from vault.custody import FILE, open_custody
from vault.messages import CreateDataKey, Resealed
from vault.policy import digest_of

if TYPE_CHECKING:
    from tests.integration.conftest import House

ALICE = ("operator:alice", "rotation")
KILLS = 10
LIMIT = 4
"""Items of one step, so few that a pass has many."""
TENANTS = [TenantId(str(UUID(int=number))) for number in range(80)]
WITH_DATA_KEY = TENANTS[:40]
PATIENCE_SECONDS = 30


def now() -> datetime:
    return datetime.now(UTC)


def fill(house: House) -> tuple[dict[TenantId, str], dict[TenantId, Secret]]:
    """Tenants with a credential each, half of them with a data key: their passwords, and the data keys in plaintext."""
    holding = house.holding()
    key = holding.keyring().active
    passwords = {tenant: secrets.token_hex(16) for tenant in TENANTS}
    streams: dict[Stream, list[AnyEvent]] = {}
    for tenant, password in passwords.items():
        payload = credential.encode(ServiceAccount(username="reader@c.com", password=password))
        sealed = envelope.seal(payload, tenant=tenant, slot=ENTRA, key=key).encode()
        house.secrets.put(credential_name(tenant, ENTRA), sealed)
        streams[tenant_stream(tenant)] = [TenantRegistered(tenant=tenant, name="N", domain="n.com", cloud="public")]
        streams[credential_stream(tenant, ENTRA)] = [
            CredentialSealed(
                tenant=tenant,
                slot=ENTRA,
                kind="service-account",
                identity="reader@c.com",
                vault_key=key.thumbprint,
                digest=digest_of(sealed),
            )
        ]
    appends = [Append(stream, 0, events) for stream, events in streams.items()]
    house.events().append_all(appends, at=now(), actor="operator:test", cause="test")
    for tenant in WITH_DATA_KEY:
        holding.create_data_key(CreateDataKey(tenant=tenant, actor="operator:test", cause="test"))
    return passwords, {tenant: data_key(house, tenant, holding.keyring()) for tenant in WITH_DATA_KEY}


def data_key(house: House, tenant: TenantId, keyring: Keyring) -> Secret:
    return datakey.unwrap(house.secrets.get(data_key_name(tenant)).decode(), tenant=tenant, keyring=keyring).to_secret()


class Releasing:
    """Asks for the credential of one tenant after the other, drawn by lot, each by an activation of its own."""

    def __init__(self, house: House, passwords: dict[TenantId, str], rng: Random) -> None:
        self._house = house
        self._passwords = passwords
        self._rng = rng
        self._changed = Condition()
        self._ended = False
        self.released = 0

    def go_on(self) -> None:
        """Until `end`. Raises what a release raises."""
        events, keyholder = self._house.events(), self._house.keyholder()
        try:
            for number in count(2):
                if self._ended:
                    return
                tenant, run, activation = self._rng.choice(TENANTS), new_run_id(now(), number), f"a{number}"
                requested = RunRequested(run=run, tenant=tenant, datasets=(Dataset("entra.users"),))
                started = [requested, RunStarted(activation=activation, epoch=1)]
                events.append(run_stream(run), 0, started, at=now(), actor="operator:test", cause="test")
                request = self._house.request(run=run, tenant=tenant, activation=activation)
                opened = open_released(
                    keyholder.release(request),
                    self._house.transit,
                    run=run,
                    tenant=tenant,
                    slot=ENTRA,
                    activation=activation,
                    epoch=1,
                )
                assert isinstance(opened, ServiceAccount)
                assert opened.password == self._passwords[tenant]
                over = [RunCancelled(reason="it has what it asked for")]
                events.append(run_stream(run), len(started), over, at=now(), actor="operator:test", cause="test")
                with self._changed:
                    self.released += 1
                    self._changed.notify_all()
        finally:
            self.end()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for_one(self) -> None:
        """That was asked for from now on: the next to be counted may have been answered before."""
        with self._changed:
            enough = self.released + 2
            assert self._changed.wait_for(lambda: self._ended or self.released >= enough, PATIENCE_SECONDS)
            assert not self._ended, "a release failed"


def test_killed_ten_times_at_random_it_is_finished_and_every_release_in_between_succeeds(house: House) -> None:
    passwords, data_keys = fill(house)
    names = len(TENANTS) + len(WITH_DATA_KEY) + 1
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    rng = Random(seed)  # noqa: S311 - repeatable on purpose
    keyholder = house.keyholder()
    old = keyholder.health().active
    new = keyholder.rotate_vault_key(*ALICE)
    kills = rng.sample(range(1, -(-names // LIMIT)), KILLS)
    releasing = Releasing(house, passwords, Random(seed))  # noqa: S311
    with ThreadPoolExecutor(2) as working:
        released = working.submit(releasing.go_on)
        try:
            interrupted = resealed_with_kills(house, sorted(kills), releasing, rng, working)
        finally:
            releasing.end()
            released.result()
    print(f"killed in steps {sorted(kills)}, {interrupted} of them under way; {releasing.released} released")  # noqa: T201
    assert interrupted
    assert {(step.resealed, step.left_count) for step in keyholder.reseal(*ALICE)} == {(0, 0)}
    opens_with(house, new, passwords, data_keys)
    keyholder.retire_vault_key(old, *ALICE)
    keyholder.destroy_vault_key(old, *ALICE)
    house.killed(signal.SIGKILL)
    assert house.password_in(keyholder.release(house.request())) == house.password


def resealed_with_kills(
    house: House, kills: list[int], releasing: Releasing, rng: Random, working: ThreadPoolExecutor
) -> int:
    """Step by step to the end, with a kill at a random moment of each of the steps `kills`. How many of the kills found
    their step under way; the others came just after it."""
    steps = house.keyholder().reseal(*ALICE, limit=LIMIT)
    durations: list[float] = []
    interrupted = number = 0
    more = True
    while more:
        began = monotonic()
        step: Future[Resealed | None] = working.submit(next, steps, None)
        if number in kills:
            wait([step], rng.uniform(0, median(durations)))
            interrupted += not step.done()
            house.killed(signal.SIGKILL)
            releasing.wait_for_one()
        more = step.result(PATIENCE_SECONDS) is not None
        if number not in kills:
            durations.append(monotonic() - began)
        number += 1
    return interrupted


def opens_with(house: House, new: str, passwords: dict[TenantId, str], data_keys: dict[TenantId, Secret]) -> None:
    """Everything that was stored, and with the new key alone, and it is what the events say it is."""
    keyring = Keyring(open_custody(house.settings).of(FILE).halves([new]), new)
    store = house.events()
    for tenant, password in (passwords | {house.tenant: house.password}).items():
        stored = house.secrets.get(credential_name(tenant, ENTRA))
        with envelope.open_(stored.decode(), tenant=tenant, slot=ENTRA, keyring=keyring) as payload:
            opened = credential.decode(payload)
        assert isinstance(opened, ServiceAccount)
        assert opened.password == password
        events = [one.event for one in store.read(credential_stream(tenant, ENTRA))]
        resealed = [event for event in events if isinstance(event, CredentialResealed)]
        assert resealed[-1] == CredentialResealed(vault_key=new, digest=digest_of(stored))
    for tenant, key in data_keys.items():
        assert data_key(house, tenant, keyring) == key
