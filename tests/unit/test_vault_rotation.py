"""A vault key's whole life, cut off at every step and disturbed at every step: nothing that was sealed is lost."""

from __future__ import annotations

import os
import secrets as randomness
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from crypto import credential, datakey, envelope
from crypto.credential import ServiceAccount
from crypto.filestore import FileSecretStore
from crypto.keyring import LocalKey, PrivateHalf, VaultPublicKey, public_of
from crypto.secret import Secret
from crypto.stores import MemorySecretStore, credential_name, data_key_name
from crypto.transit import TransitKey
from domain.errors import NotAllowed, ReleaseRefused, Unknown, Unreadable
from domain.events import (
    AnyEvent,
    CredentialReleased,
    CredentialResealed,
    CredentialRevoked,
    CredentialRotated,
    CredentialSealed,
    DataKeyDestroyed,
    Recorded,
    Retained,
    RunFinished,
    RunRequested,
    RunStarted,
    TenantOffboarded,
    TenantRegistered,
    VaultKeyDestroyed,
    VaultKeyRetired,
)
from domain.ids import (
    ENTRA,
    VAULT_KEYS,
    Dataset,
    Stream,
    TenantId,
    credential_stream,
    new_run_id,
    run_stream,
    tenant_stream,
)
from eventstore.store import Append, EventStore, open_event_store
from vault.client import open_data_key, open_released
from vault.custody import Custody
from vault.holding import Holding
from vault.messages import (
    CreateDataKey,
    CreateVaultKey,
    Destroyed,
    DestroyVaultKey,
    Left,
    ListVaultKeys,
    Release,
    ReleaseDataKey,
    Resealed,
    ResealStep,
    RetireVaultKey,
    RotateVaultKey,
    VaultKeySet,
)
from vault.policy import digest_of

TENANTS = [TenantId(str(UUID(int=number))) for number in (1, 2, 3)]
BY = {"actor": "operator:alice", "cause": "rotation"}
NOW = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)


@cache
def private_key(number: int) -> rsa.RSAPrivateKey:
    """2048 bits keep hundreds of lives fast."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Killed(BaseException):
    """Nobody catches it, as nobody catches a kill."""


class Life:
    """Calls `at` before and after everything that is written, with the number of that moment."""

    def __init__(self, at: Callable[[int], None] = lambda _: None) -> None:
        self.moments = 0
        self._at = at

    def pass_(self) -> None:
        self.moments += 1
        self._at(self.moments)


class MortalSecrets(MemorySecretStore):
    def __init__(self, values: dict[str, bytes], life: Life) -> None:
        super().__init__()
        self._values = values
        self._life = life

    def put(self, name: str, value: bytes, tags: Mapping[str, str] = {}) -> str:
        self._life.pass_()
        version = super().put(name, value, tags)
        self._life.pass_()
        return version

    def delete(self, name: str) -> None:
        self._life.pass_()
        super().delete(name)
        self._life.pass_()


class MortalEvents(EventStore):
    def __init__(self, inner: EventStore, life: Life) -> None:
        self.__dict__.update(inner.__dict__)
        self._life = life

    def append_all(self, appends: Sequence[Append], *, at: datetime, actor: str, cause: str) -> tuple[Recorded, ...]:
        self._life.pass_()
        recorded = super().append_all(appends, at=at, actor=actor, cause=cause)
        self._life.pass_()
        return recorded


class MortalCustody:
    """Keys in memory, made beforehand."""

    name = "memory"

    def __init__(self, kept: dict[str, rsa.RSAPrivateKey], life: Life) -> None:
        self._kept = kept
        self._life = life
        self.retained: Retained | None = None

    def create(self) -> VaultPublicKey:
        self._life.pass_()
        key = next(key for number in range(50) if public_of(key := private_key(number)).thumbprint not in self._kept)
        self._kept[public_of(key).thumbprint] = key
        self._life.pass_()
        return public_of(key)

    def halves(self, keys: Collection[str]) -> dict[str, PrivateHalf]:
        if not set(keys) <= set(self._kept):
            raise Unreadable("vault key", "memory", "it is gone", "...")
        return {key: LocalKey(self._kept[key]) for key in keys}

    def destroy(self, key: str) -> Retained | None:
        self._life.pass_()
        self._kept.pop(key, None)
        self._life.pass_()
        return self.retained

    def current(self) -> Custody:
        return self

    def of(self, name: str) -> Custody:
        assert name == self.name
        return self


class House:
    """What outlives a keyholder: events, stored secrets, kept keys. With three tenants, credentials and data keys."""

    def __init__(self) -> None:
        self.events = open_event_store("memory:", os.urandom(32))
        self.values: dict[str, bytes] = {}
        self.kept: dict[str, rsa.RSAPrivateKey] = {}
        self.passwords = {tenant: randomness.token_hex(8) for tenant in TENANTS}
        self.data_keys: dict[TenantId, str] = {}
        self.transit = TransitKey.generate()
        self._runs = 0
        holding = self.holding()
        self.first = holding.create_vault_key(CreateVaultKey(actor="operator:alice", cause="init")).key
        for tenant in TENANTS:
            self.append(
                tenant_stream(tenant), TenantRegistered(tenant=tenant, name="C", domain="c.com", cloud="public")
            )
            self.data_keys[tenant] = holding.create_data_key(CreateDataKey(tenant=tenant, **BY)).key
            sealed = self.put(tenant, self.passwords[tenant])
            self.append(credential_stream(tenant, ENTRA), sealed)

    def holding(self, life: Life | None = None) -> Holding:
        """A keyholder that has just started."""
        life = life or Life()
        events, stored = MortalEvents(self.events, life), MortalSecrets(self.values, life)
        return Holding(events, stored, MortalCustody(self.kept, life), lambda: NOW)

    def append(self, stream: Stream, *events: AnyEvent) -> None:
        self.events.append(stream, len(self.events.read(stream)), events, at=NOW, actor="operator:bob", cause="x")

    def found(self, stream: Stream) -> list[AnyEvent]:
        return [one.event for one in self.events.read(stream)]

    def put(self, tenant: TenantId, password: str) -> CredentialSealed:
        """As `credential set` does it: the envelope is stored, and the event to record is returned."""
        key = self.holding().keyring().active
        secret = credential.encode(ServiceAccount(username="reader@c.com", password=password))
        sealed = envelope.seal(secret, tenant=tenant, slot=ENTRA, key=key).encode()
        self.values[credential_name(tenant, ENTRA)] = sealed
        return CredentialSealed(
            tenant=tenant,
            slot=ENTRA,
            kind="service-account",
            identity="reader@c.com",
            vault_key=key.thumbprint,
            digest=digest_of(sealed),
        )

    def rotate_credential(self, tenant: TenantId, sealed: CredentialSealed) -> None:
        changed = CredentialRotated(
            kind=sealed.kind, identity=sealed.identity, vault_key=sealed.vault_key, digest=sealed.digest
        )
        self.append(credential_stream(tenant, ENTRA), changed)

    def released(self, tenant: TenantId) -> str:
        """The password that a new run of this tenant, which ends then, gets from a keyholder that has just started."""
        self._runs += 1
        run = new_run_id(NOW, self._runs)
        self.append(
            run_stream(run),
            RunRequested(run=run, tenant=tenant, datasets=(Dataset("entra.users"),)),
            RunStarted(activation="a", epoch=1),
        )
        request = Release(
            run=run,
            tenant=tenant,
            slot=ENTRA,
            activation="a",
            epoch=1,
            purpose="graph",
            transit_key=self.transit.public,
        )
        payload = self.holding().release(request, "uid:0").payload
        self.append(run_stream(run), RunFinished(outcomes=()))
        opened = open_released(payload, self.transit, run=run, tenant=tenant, slot=ENTRA, activation="a", epoch=1)
        assert isinstance(opened, ServiceAccount)
        return opened.password

    def check(self) -> None:
        """Everything that was sealed can be had."""
        for tenant in TENANTS:
            assert self.released(tenant) == self.passwords[tenant]
            request = ReleaseDataKey(tenant=tenant, operator="alice", why="x", transit_key=self.transit.public)
            payload = self.holding().release_data_key(request, "uid:0").payload
            found = open_data_key(payload, self.transit, tenant=tenant, receiver="alice")
            assert found.id == self.data_keys[tenant]

    def sealed_to(self) -> dict[str, int]:
        answer = self.holding().answer(ListVaultKeys(count=True), "uid:0")
        assert isinstance(answer, VaultKeySet)
        return {key.key: key.sealed or 0 for key in answer.keys}

    def states(self) -> list[str]:
        answer = self.holding().answer(ListVaultKeys(), "uid:0")
        assert isinstance(answer, VaultKeySet)
        return [key.state for key in answer.keys]


def step(holding: Holding, after: str = "", limit: int = 100) -> Resealed:
    answer = holding.answer(ResealStep(after=after, limit=limit, **BY), "uid:0")
    assert isinstance(answer, Resealed)
    return answer


def resealed(holding: Holding, limit: int = 2) -> list[Left]:
    """Passes until one finds nothing more to do; what that one left."""
    while True:
        done, after = 0, ""
        left: list[Left] = []
        while True:
            answer = step(holding, after, limit)
            done, after = done + answer.resealed, answer.after
            left.extend(answer.left)
            if not after:
                break
        if not done:
            return left


def whole_life(house: House, life: Life) -> None:
    """From a new active key to the end of the first one; begun again, it goes on where it was."""
    holding = house.holding(life)
    holding.answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    resealed(holding)
    if house.states()[0] != "destroyed":
        holding.answer(RetireVaultKey(key=house.first, **BY), "uid:0")
    holding.answer(DestroyVaultKey(key=house.first, **BY), "uid:0")


def moments() -> int:
    life = Life()
    whole_life(House(), life)
    return life.moments


# kills and concurrent releases


def test_killed_at_any_step_everything_is_still_released_and_the_rest_is_done_by_doing_it_again() -> None:
    total = moments()
    assert total >= 2 * (2 + 2 * 3 + 2 + 2 + 1), "each of the writes has a moment before it and one after"
    for last in range(1, total + 1):
        house = House()

        def kill(moment: int, last: int = last) -> None:
            if moment == last:
                raise Killed

        with suppress(Killed):
            whole_life(house, Life(kill))
        house.check()
        whole_life(house, Life())
        house.check()
        assert house.states()[0] == "destroyed"
        assert house.first not in house.kept
        new = house.holding().keyring().active.thumbprint
        assert house.sealed_to() == {**dict.fromkeys(house.sealed_to(), 0), new: 2 * len(TENANTS)}
        assert len(house.states()) == 2, "a rotation that is asked for again makes no second key"
        kinds = [type(event) for event in house.found(VAULT_KEYS)]
        assert kinds.count(VaultKeyRetired) == kinds.count(VaultKeyDestroyed) == 1


def test_killed_again_and_again_at_the_same_step_nothing_is_lost() -> None:
    """Recorded and never stored: every such kill adds an envelope that only its event knows."""
    house = House()
    for _ in range(5):
        holding = house.holding(Life(_at_the_first_put(house)))
        holding.answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
        with suppress(Killed):
            step(holding)
    house.check()
    recorded = house.found(credential_stream(TENANTS[0], ENTRA))
    assert len([event for event in recorded if isinstance(event, CredentialResealed)]) == 5
    whole_life(house, Life())
    house.check()


def _at_the_first_put(house: House) -> Callable[[int], None]:
    recorded = len(house.found(credential_stream(TENANTS[0], ENTRA)))

    def kill(_: int) -> None:
        new = house.found(credential_stream(TENANTS[0], ENTRA))[recorded:]
        if any(isinstance(event, CredentialResealed) for event in new):
            raise Killed

    return kill


def test_releases_go_on_at_every_step() -> None:
    for when in range(1, moments() + 1):
        house = House()

        def release(moment: int, house: House = house, when: int = when) -> None:
            if moment == when:
                house.check()

        whole_life(house, Life(release))
        house.check()


def test_releases_that_never_pause_leave_it_for_the_next_pass() -> None:
    house = House()
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    answer = step(house.holding(Life(lambda _: house.check())))
    assert {(one.name, one.why) for one in answer.left} == {
        (credential_name(tenant, ENTRA), "busy") for tenant in TENANTS
    }
    assert not resealed(house.holding())
    house.check()


# writers who are not the keyholder


@pytest.mark.parametrize("recorded_at_once", [True, False])
def test_a_credential_that_is_set_meanwhile_is_the_one_that_is_released(recorded_at_once: bool) -> None:
    """At any moment but one, between the last look at its place and the put: that one is told, see the next test."""
    lost = []
    for when in range(1, moments() + 1):
        house, tenant = House(), TENANTS[1]
        later: list[CredentialSealed] = []

        def set_it(
            moment: int, house: House = house, tenant: TenantId = tenant, when: int = when, later: Any = later
        ) -> None:
            if moment == when and house.states()[0] != "destroyed":
                house.passwords[tenant] = randomness.token_hex(8)
                sealed = house.put(tenant, house.passwords[tenant])
                later.append(sealed)
                if recorded_at_once:
                    house.rotate_credential(tenant, later.pop())

        life = Life(set_it)
        with suppress(NotAllowed):
            whole_life(house, life)
        for sealed in later:
            house.rotate_credential(tenant, sealed)
        try:
            house.check()
        except ReleaseRefused:
            lost.append(when)
    assert len(lost) <= 1


def test_a_credential_that_is_overwritten_by_a_resealing_is_told() -> None:
    house, tenant = House(), TENANTS[0]
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")

    def set_it(moment: int) -> None:
        if moment == data_keys + record + 1:
            house.rotate_credential(tenant, house.put(tenant, randomness.token_hex(8)))

    data_keys, record = 2 * len(TENANTS), 2
    left = step(house.holding(Life(set_it))).left
    assert left == (Left(name=credential_name(tenant, ENTRA), why="replaced"),)


def test_an_envelope_that_nobody_recorded_is_neither_opened_nor_replaced() -> None:
    house = House()
    planted = credential.encode(ServiceAccount(username="mallory@c.com", password=randomness.token_hex(8)))
    name = credential_name(TENANTS[0], ENTRA)
    public = house.holding().keyring().active
    house.values[name] = envelope.seal(planted, tenant=TENANTS[0], slot=ENTRA, key=public).encode()
    before = house.values[name]
    holding = house.holding()
    holding.answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    assert resealed(holding) == [Left(name=name, why="unrecorded")]
    assert house.values[name] == before
    with pytest.raises(ReleaseRefused, match="not the one that was recorded"):
        house.released(TENANTS[0])
    with pytest.raises(NotAllowed, match="1 stored envelopes are sealed to"):
        holding.answer(RetireVaultKey(key=house.first, **BY), "uid:0")


def test_an_envelope_sealed_to_the_new_key_is_not_accepted_because_of_its_key() -> None:
    house = House()
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    house.put(TENANTS[0], randomness.token_hex(8))
    assert not resealed(house.holding())
    with pytest.raises(ReleaseRefused, match="not the one that was recorded"):
        house.released(TENANTS[0])


def test_a_former_credential_is_not_accepted_after_it_was_replaced() -> None:
    house, tenant = House(), TENANTS[0]
    name = credential_name(tenant, ENTRA)
    former = house.values[name]
    house.rotate_credential(tenant, house.put(tenant, randomness.token_hex(8)))
    house.values[name] = former
    with pytest.raises(ReleaseRefused, match="not the one that was recorded"):
        house.released(tenant)


def test_a_revoked_credential_that_is_still_stored_is_left_and_told() -> None:
    house = House()
    house.append(credential_stream(TENANTS[0], ENTRA), CredentialRevoked(reason="x"))
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    name = credential_name(TENANTS[0], ENTRA)
    assert resealed(house.holding()) == [Left(name=name, why="revoked")]


def test_a_credential_that_is_revoked_meanwhile_does_not_come_back() -> None:
    for when in range(1, moments() + 1):
        house, tenant = House(), TENANTS[1]

        def revoke(moment: int, house: House = house, tenant: TenantId = tenant, when: int = when) -> None:
            if moment == when:
                house.append(credential_stream(tenant, ENTRA), CredentialRevoked(reason="x"))
                house.values.pop(credential_name(tenant, ENTRA), None)

        whole_life(house, Life(revoke))
        assert credential_name(tenant, ENTRA) not in house.values


def test_a_data_key_that_is_destroyed_meanwhile_does_not_come_back() -> None:
    for when in range(1, moments() + 1):
        house, tenant = House(), TENANTS[1]

        def offboard(moment: int, house: House = house, tenant: TenantId = tenant, when: int = when) -> None:
            if moment == when:
                house.values.pop(data_key_name(tenant), None)
            if moment == when + 1:
                gone = DataKeyDestroyed(key=house.data_keys[tenant])
                house.append(tenant_stream(tenant), gone, TenantOffboarded(reason="x"))

        life = Life(offboard)
        whole_life(house, life)
        offboard(life.moments + 1)
        resealed(house.holding())
        assert data_key_name(tenant) not in house.values


def test_what_is_no_envelope_does_not_stop_the_others() -> None:
    house = House()
    house.values["credential-nonsense"] = b"x"
    house.values[credential_name(TENANTS[0], ENTRA)] = b"x"
    house.values[data_key_name(TENANTS[1])] = b"x"
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    left = resealed(house.holding())
    assert {(one.name, one.why) for one in left} == {
        ("credential-nonsense", "unreadable"),
        (credential_name(TENANTS[0], ENTRA), "unreadable"),
        (data_key_name(TENANTS[1]), "rejected"),
    }
    assert house.sealed_to()[house.first] == 0


def test_what_cannot_be_read_stops_nothing_but_the_end_of_the_former_key(tmp_path: Path) -> None:
    house, store = House(), FileSecretStore(tmp_path)
    for name, value in house.values.items():
        store.put(name, value)
    holding = Holding(house.events, store, MortalCustody(house.kept, Life()), lambda: NOW)
    holding.answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    half, wrapped = credential_name(TENANTS[0], ENTRA), data_key_name(TENANTS[1])
    unreadable = sorted([half, wrapped, "credential-OLD copy", "datakey-?"])
    for name in (half, wrapped):
        file = tmp_path / f"{name}.secret"
        file.write_bytes(file.read_bytes()[:100])
    for stray in (b"credential-OLD copy.secret", b"datakey-\xff.secret"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), stray))).write_bytes(b"{}")

    left = resealed(holding)

    assert left == [Left(name=name, why="unreadable") for name in unreadable]
    answer = holding.answer(ListVaultKeys(count=True), "uid:0")
    assert isinstance(answer, VaultKeySet)
    assert [key.sealed for key in answer.keys] == [0, 2 * len(TENANTS) - 2]
    assert (list(answer.unreadable), answer.unreadable_count) == (unreadable, 4)
    with pytest.raises(NotAllowed, match=rf"{unreadable[0]} cannot be read.*delete it"):
        holding.answer(RetireVaultKey(key=house.first, **BY), "uid:0")
    for name in unreadable[1:]:
        (tmp_path / f"{name}.secret").unlink(missing_ok=True)
    (tmp_path / os.fsdecode(b"datakey-\xff.secret")).unlink(missing_ok=True)
    (tmp_path / f"{unreadable[0]}.secret").unlink()
    holding.answer(RetireVaultKey(key=house.first, **BY), "uid:0")


# the life of a key


def test_rotation_asked_twice_makes_one_key() -> None:
    house = House()
    first = house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    assert house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0") == first
    assert house.states() == ["former", "active"]
    with pytest.raises(Unknown):
        house.holding().answer(RotateVaultKey(replaces="A" * 43, **BY), "uid:0")


def test_a_key_ends_in_order_only() -> None:
    house = House()
    retire, destroy = RetireVaultKey(key=house.first, **BY), DestroyVaultKey(key=house.first, **BY)
    for request, why in ((retire, "is active"), (destroy, "is active")):
        with pytest.raises(NotAllowed, match=why):
            house.holding().answer(request, "uid:0")
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    for request, why in ((retire, "6 stored envelopes"), (destroy, "not retired")):
        with pytest.raises(NotAllowed, match=why):
            house.holding().answer(request, "uid:0")
    resealed(house.holding())
    house.holding().answer(retire, "uid:0")
    assert house.states() == ["retired", "active"]
    house.holding().answer(destroy, "uid:0")
    house.holding().answer(destroy, "uid:0")
    assert house.states() == ["destroyed", "active"]
    with pytest.raises(NotAllowed, match="destroyed"):
        house.holding().answer(retire, "uid:0")


def test_a_destroyed_key_does_not_stay_with_the_keyholder_that_used_it() -> None:
    house = House()
    holding = house.holding()
    assert house.first in holding.keyring()
    whole_life(house, Life())
    assert house.states() == ["destroyed", "active"]
    assert house.first not in holding.keyring()


def test_what_a_custody_keeps_of_a_destroyed_key_is_told_and_recorded_until_it_is_gone() -> None:
    house = House()
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    resealed(house.holding())
    house.holding().answer(RetireVaultKey(key=house.first, **BY), "uid:0")
    custody = MortalCustody(house.kept, Life())
    holding = Holding(house.events, MortalSecrets(house.values, Life()), custody, lambda: NOW)
    seen = Retained(name="vault-1", until=NOW, why="purge-protected")
    unseen = Retained(name="vault-1", until=None, why="unseen")
    for found, told in ((seen, seen), (seen, seen), (unseen, seen), (None, None), (None, None)):
        custody.retained = found
        answer = holding.answer(DestroyVaultKey(key=house.first, **BY), "uid:0")
        assert answer == Destroyed(key=house.first, retained=told)
    assert [one for one in house.found(VAULT_KEYS) if isinstance(one, VaultKeyDestroyed)] == [
        VaultKeyDestroyed(key=house.first),
        VaultKeyDestroyed(key=house.first, retained=seen),
        VaultKeyDestroyed(key=house.first),
    ]
    assert house.states() == ["destroyed", "active"]


def test_what_was_sealed_to_a_retired_key_keeps_it_from_being_destroyed() -> None:
    """Somebody has sealed with a public key that was published before the rotation."""
    house, tenant = House(), TENANTS[0]
    public = house.holding().keyring().active
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    resealed(house.holding())
    house.holding().answer(RetireVaultKey(key=house.first, **BY), "uid:0")
    house.passwords[tenant] = randomness.token_hex(8)
    secret = credential.encode(ServiceAccount(username="reader@c.com", password=house.passwords[tenant]))
    late = envelope.seal(secret, tenant=tenant, slot=ENTRA, key=public).encode()
    house.values[credential_name(tenant, ENTRA)] = late
    changed = CredentialRotated(
        kind="service-account", identity="reader@c.com", vault_key=public.thumbprint, digest=digest_of(late)
    )
    house.append(credential_stream(tenant, ENTRA), changed)
    with pytest.raises(NotAllowed, match="1 stored envelopes"):
        house.holding().answer(DestroyVaultKey(key=house.first, **BY), "uid:0")
    house.check()
    assert not resealed(house.holding())
    house.holding().answer(DestroyVaultKey(key=house.first, **BY), "uid:0")
    house.check()


def test_a_pass_tells_what_it_has_still_to_look_at() -> None:
    house = House()
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    holding, after, told = house.holding(), "", []
    while True:
        answer = step(holding, after, 2)
        told.append((answer.resealed, answer.remaining))
        after = answer.after
        if not after:
            break
    assert told == [(2, 4), (2, 2), (2, 0)]


def test_a_pass_goes_on_in_another_keyholder() -> None:
    house = House()
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    after = step(house.holding(), "", 2).after
    assert step(house.holding(), after, 100) == Resealed(after="", resealed=4, remaining=0)


def test_a_resealed_data_key_is_the_same_key() -> None:
    house = House()
    sealed = datakey.wrapped_to(house.values[data_key_name(TENANTS[0])].decode())
    whole_life(house, Life())
    wrapped = house.values[data_key_name(TENANTS[0])].decode()
    assert datakey.wrapped_to(wrapped) not in (sealed, house.first)
    key = datakey.unwrap(wrapped, tenant=TENANTS[0], keyring=house.holding().keyring())
    assert key.id == house.data_keys[TENANTS[0]]


def test_no_release_is_recorded_twice_because_of_a_resealing() -> None:
    """The envelope is replaced between the record of the release and the look at the store."""
    house, tenant = House(), TENANTS[0]
    house.holding().answer(RotateVaultKey(replaces=house.first, **BY), "uid:0")
    stream = credential_stream(tenant, ENTRA)

    def reseal(_: int) -> None:
        if isinstance(house.found(stream)[-1], CredentialReleased):
            resealed(house.holding())

    run = new_run_id(NOW, 4711)
    started = RunStarted(activation="a", epoch=1)
    house.append(run_stream(run), RunRequested(run=run, tenant=tenant, datasets=(Dataset("entra.users"),)), started)
    request = Release(
        run=run, tenant=tenant, slot=ENTRA, activation="a", epoch=1, purpose="graph", transit_key=house.transit.public
    )
    payload = house.holding(Life(reseal)).release(request, "uid:0").payload
    opened = open_released(payload, house.transit, run=run, tenant=tenant, slot=ENTRA, activation="a", epoch=1)
    assert isinstance(opened, ServiceAccount)
    assert Secret(opened.password) == Secret(house.passwords[tenant])
    assert [type(event) for event in house.found(stream)] == [CredentialSealed, CredentialReleased, CredentialResealed]
