"""What the keyholder records before it opens anything, and what it refuses."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from crypto import datakey
from crypto.keyring import parse_public
from crypto.stores import credential_name, data_key_name
from crypto.transit import TransitKey
from domain.errors import (
    EnvelopeRejected,
    NotAllowed,
    ReleaseRefused,
    SealBroken,
    StoreReplaced,
    TransientError,
    Unknown,
    Unreadable,
    VersionConflict,
)
from domain.events import (
    AnyEvent,
    CredentialReleased,
    CredentialRevoked,
    DataKeyDenied,
    DataKeyReleased,
    ReleaseDenied,
    RunCancelled,
    RunResumed,
    TenantRegistered,
    TenantSuspended,
    VaultKeyActivated,
    VaultKeyCreated,
)
from domain.ids import (
    ENTRA,
    VAULT_KEYS,
    RunId,
    Slot,
    TenantId,
    credential_stream,
    new_run_id,
    run_stream,
    tenant_stream,
)
from vault.client import (
    open_data_key,
    open_released,
)
from vault.custody import FileCustody, create_passphrase, open_custody
from vault.holding import Holding
from vault.messages import ReleaseDataKey
from vault.policy import REASONS, RELEASES_PER_ACTIVATION, VERIFICATION

if TYPE_CHECKING:
    from tests.integration.conftest import House

FABRIKAM = TenantId("99999999-2222-3333-4444-555555555555")
CALLER = "uid:0"


# what is recorded


def test_the_release_stands_in_the_store_when_the_answer_arrives(house: House) -> None:
    sealed = house.keyholder().release(house.request())
    last = house.events().read(house.stream)[-1]
    assert isinstance(last.event, CredentialReleased)
    assert (last.event.run, last.event.activation, last.event.epoch, last.event.purpose) == (
        house.run,
        "a1",
        1,
        "graph",
    )
    assert (last.actor, last.cause) == ("vault", house.run)
    assert house.password_in(sealed) == house.password


def test_a_released_credential_opens_for_its_activation_only(house: House) -> None:
    sealed = house.holding().release(house.request(), CALLER).payload
    with pytest.raises(SealBroken):
        open_released(sealed, house.transit, run=house.run, tenant=house.tenant, slot=ENTRA, activation="a1", epoch=2)
    with pytest.raises(SealBroken):
        open_released(
            sealed, TransitKey.generate(), run=house.run, tenant=house.tenant, slot=ENTRA, activation="a1", epoch=1
        )
    assert house.password.encode() not in sealed


DENIED: dict[str, tuple[dict[str, Any], str]] = {
    "another run": ({"run": "20261122T203000-ffffffff"}, "no-such-run"),
    "another epoch": ({"epoch": 2}, "stale-epoch"),
    "another activation": ({"activation": "a2"}, "another-activation"),
    "another tenant": ({"tenant": FABRIKAM}, "no-such-tenant"),
    "another slot": ({"slot": "exchange-server"}, "purpose-not-in-slot"),
    "another purpose": ({"purpose": "exchange"}, "purpose-not-in-run"),
}


def test_whoever_does_not_hold_the_run_is_denied_with_an_event(house: House) -> None:
    keyholder = house.keyholder()
    for changed, why in DENIED.values():
        request = house.request(**changed)
        with pytest.raises(ReleaseRefused) as refused:
            keyholder.release(request)
        assert refused.value.args == (f"Credential {request.tenant}:{request.slot}", REASONS[why])
        stream = credential_stream(TenantId(request.tenant), Slot(request.slot))
        assert house.found(stream)[-1] == ReleaseDenied(run=request.run, activation=request.activation, why=why)
    assert not [event for event in house.found() if isinstance(event, CredentialReleased)]


def test_the_former_activation_of_a_resumed_run_is_denied(house: House) -> None:
    holding = house.holding()
    holding.release(house.request(), CALLER)
    house.append(run_stream(house.run), RunResumed(activation="a2", epoch=2))
    with pytest.raises(ReleaseRefused, match="another activation"):
        holding.release(house.request(), CALLER)
    sealed = holding.release(house.request(activation="a2", epoch=2), CALLER).payload
    assert house.password_in(sealed, "a2", 2) == house.password


def test_a_revoked_credential_is_denied(house: House) -> None:
    holding = house.holding()
    house.append(house.stream, CredentialRevoked(reason="left"))
    with pytest.raises(ReleaseRefused, match="revoked"):
        holding.release(house.request(), CALLER)
    assert isinstance(house.found()[-1], ReleaseDenied)


def test_releases_to_one_activation_are_counted_whoever_asks_at_once(house: House) -> None:
    keyholder = house.keyholder()
    outcomes: list[str] = []

    def ask() -> None:
        """Whom the others overtake too often asks again."""
        while True:
            try:
                outcomes.append(house.password_in(keyholder.release(house.request())))
            except VersionConflict:
                continue
            except ReleaseRefused as refusal:
                outcomes.append(str(refusal))
            return

    threads = [Thread(target=ask) for _ in range(RELEASES_PER_ACTIVATION + 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = Counter(type(event) for event in house.found())
    refused = [outcome for outcome in outcomes if outcome != house.password]
    assert len(outcomes) == len(threads)
    assert outcomes.count(house.password) == kinds[CredentialReleased] == RELEASES_PER_ACTIVATION
    assert len(refused) == kinds[ReleaseDenied] == 4
    assert all(REASONS["too-many-releases"] in why for why in refused)


# nothing is released


def break_appends(path: str) -> None:
    """Every append fails from now on; reading goes on."""
    with contextlib.closing(sqlite3.connect(path.removeprefix("sqlite://"))) as database, database:
        database.execute("CREATE TRIGGER broken BEFORE INSERT ON stored_events BEGIN SELECT json('{'); END")


def test_nothing_is_released_while_the_event_cannot_be_stored(house: House) -> None:
    keyholder = house.keyholder()
    before = house.found()
    break_appends(house.settings.eventstore)
    with pytest.raises(TransientError):
        keyholder.release(house.request())
    with pytest.raises(TransientError):
        keyholder.release(house.request(epoch=9))
    assert house.found() == before


def test_nothing_is_released_while_the_event_store_cannot_be_read(house: House) -> None:
    keyholder = house.keyholder()
    keyholder.release(house.request())
    with contextlib.closing(sqlite3.connect(house.state / "events.db")) as database, database:
        database.execute("ALTER TABLE stored_events RENAME TO gone")
    with pytest.raises(TransientError):
        keyholder.release(house.request())
    with pytest.raises(TransientError):
        keyholder.release_data_key(
            ReleaseDataKey(tenant=house.tenant, operator="alice", why="x", transit_key=house.transit.public)
        )


class NeverRead:
    """A secret store that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked of the secret store")


def test_the_secret_store_is_not_even_read_before_the_event_is_stored(house: House) -> None:
    house.keyholder().create_data_key(house.tenant, "operator:alice", "c")
    break_appends(house.settings.eventstore)
    holding = house.holding(NeverRead())  # type: ignore[arg-type]
    with pytest.raises(TransientError):
        holding.release(house.request(), CALLER)
    with pytest.raises(TransientError):
        holding.release_data_key(
            ReleaseDataKey(tenant=house.tenant, operator="alice", why="x", transit_key=house.transit.public), "uid:0"
        )


def test_an_envelope_that_was_exchanged_is_refused_with_an_event(house: House) -> None:
    house.secrets.put(credential_name(house.tenant, ENTRA), house.seal(token_hex(16)))
    with pytest.raises(ReleaseRefused, match="not the one that was recorded"):
        house.holding().release(house.request(), CALLER)
    assert house.found()[-1] == ReleaseDenied(run=house.run, activation="a1", why="envelope-exchanged")


def test_an_envelope_that_is_gone_is_refused_with_an_event(house: House) -> None:
    house.secrets.delete(credential_name(house.tenant, ENTRA))
    with pytest.raises(ReleaseRefused, match="does not have its envelope"):
        house.holding().release(house.request(), CALLER)
    assert house.found()[-1] == ReleaseDenied(run=house.run, activation="a1", why="envelope-missing")


def test_an_envelope_of_another_tenant_does_not_open_though_it_was_recorded(house: House) -> None:
    foreign = house.seal(token_hex(16), FABRIKAM)
    house.secrets.put(credential_name(house.tenant, ENTRA), foreign)
    house.append(house.stream, CredentialRevoked(reason="x"), house.sealed(foreign))
    with pytest.raises(EnvelopeRejected):
        house.holding().release(house.request(), CALLER)
    assert house.found()[-1] == ReleaseDenied(run=house.run, activation="a1", why="envelope-rejected")


# data keys


def test_a_verification_is_recorded_with_the_user_that_the_kernel_saw_whatever_name_it_gave(house: House) -> None:
    keyholder, verification = house.keyholder(), new_run_id(datetime.now(UTC), 7)
    request = house.request(run=verification, activation=VERIFICATION, epoch=0, operator="somebody else")
    keyholder.release(request)
    keyholder.release(house.request())
    with pytest.raises(ReleaseRefused, match="under way"):
        keyholder.release(request)
    *_, verified, to_run, denied = house.events().read(house.stream)
    assert isinstance(verified.event, CredentialReleased)
    assert isinstance(denied.event, ReleaseDenied)
    for one in (verified, denied):
        assert (one.actor, one.cause) == ("operator:somebody else", f"uid:{os.getuid()}")
    assert (to_run.actor, to_run.cause) == ("vault", house.run)


def test_a_tenant_gets_one_data_key_and_it_is_released_with_an_event(house: House) -> None:
    keyholder = house.keyholder()
    made = keyholder.create_data_key(house.tenant, "operator:alice", "c1")
    assert keyholder.create_data_key(house.tenant, "operator:alice", "c2") == made
    for_run = keyholder.release_data_key(
        ReleaseDataKey(tenant=house.tenant, run=house.run, activation="a1", epoch=1, transit_key=house.transit.public)
    )
    for_alice = keyholder.release_data_key(
        ReleaseDataKey(tenant=house.tenant, operator="alice", why="ticket 7", transit_key=house.transit.public)
    )
    key = open_data_key(for_run, house.transit, tenant=house.tenant, receiver=house.run)
    same = open_data_key(for_alice, house.transit, tenant=house.tenant, receiver="alice")
    assert key.id == same.id == made
    assert same.open(key.seal(b"rows", b"here"), b"here") == b"rows"
    for sealed, another in ((for_run, "alice"), (for_alice, house.run)):
        with pytest.raises(SealBroken):
            open_data_key(sealed, house.transit, tenant=house.tenant, receiver=another)
    *_, to_run, to_alice = house.events().read(tenant_stream(house.tenant))
    assert to_run.event == DataKeyReleased(key=made, run=RunId(house.run), operator=None, why="")
    assert to_alice.event == DataKeyReleased(key=made, run=None, operator="alice", why="ticket 7")
    assert (to_run.actor, to_alice.actor, to_alice.cause) == ("vault", "operator:alice", f"uid:{os.getuid()}")
    with pytest.raises(ReleaseRefused, match="an operator who says why"):
        keyholder.release_data_key(
            ReleaseDataKey(tenant=house.tenant, operator="alice", transit_key=house.transit.public)
        )
    assert last_of(house) == DataKeyDenied(run=None, activation="", operator="alice", why="no-receiver")
    with pytest.raises(ReleaseRefused, match="another activation"):
        keyholder.release_data_key(
            ReleaseDataKey(
                tenant=house.tenant, run=house.run, activation="a1", epoch=7, transit_key=house.transit.public
            )
        )
    assert last_of(house) == DataKeyDenied(run=RunId(house.run), activation="a1", operator=None, why="stale-epoch")
    with pytest.raises(Unknown):
        keyholder.create_data_key(FABRIKAM, "operator:alice", "c3")


def last_of(house: House) -> AnyEvent:
    return house.events().read(tenant_stream(house.tenant))[-1].event


def test_the_data_key_of_a_tenant_that_is_none_is_denied_on_record(house: House) -> None:
    asked = ReleaseDataKey(tenant=FABRIKAM, operator="alice", why="x", transit_key=house.transit.public)
    with pytest.raises(ReleaseRefused, match="never registered"):
        house.keyholder().release_data_key(asked)
    (denied,) = house.events().read(tenant_stream(FABRIKAM))
    assert denied.event == DataKeyDenied(run=None, activation="", operator="alice", why="no-such-tenant")


def test_a_data_key_that_was_exchanged_or_is_gone_is_refused_on_record(house: House) -> None:
    holding = house.holding()
    for tenant in (house.tenant, FABRIKAM):
        if tenant == FABRIKAM:
            house.append(
                tenant_stream(FABRIKAM),
                TenantRegistered(tenant=FABRIKAM, name="Fabrikam", domain="fabrikam.com", cloud="public"),
            )
        house.keyholder().create_data_key(tenant, "operator:alice", "c")
    asked = ReleaseDataKey(tenant=house.tenant, operator="alice", why="x", transit_key=house.transit.public)
    secrets = house.secrets
    planted = datakey.wrap(datakey.new_data_key(), tenant=house.tenant, key=holding.keyring().active)
    secrets.put(data_key_name(house.tenant), planted.encode())
    with pytest.raises(ReleaseRefused, match="not the one that was recorded"):
        holding.release_data_key(asked, "uid:0")
    secrets.put(data_key_name(house.tenant), secrets.get(data_key_name(FABRIKAM)))
    with pytest.raises(EnvelopeRejected):
        holding.release_data_key(asked, "uid:0")
    secrets.delete(data_key_name(house.tenant))
    with pytest.raises(ReleaseRefused, match="does not have it"):
        holding.release_data_key(asked, "uid:0")
    denied = [one.event for one in house.events().read(tenant_stream(house.tenant))]
    assert [event.why for event in denied if isinstance(event, DataKeyDenied)] == [
        *("data-key-exchanged", "data-key-rejected", "data-key-missing")
    ]


# vault keys and custody


def test_a_new_vault_key_is_active_and_the_old_one_still_opens(house: House) -> None:
    keyholder = house.keyholder()
    old = parse_public(keyholder.public_keys())
    new = keyholder.create_vault_key("operator:alice", "rotate")
    assert parse_public(keyholder.public_keys()).thumbprint == new != old.thumbprint
    assert house.found(VAULT_KEYS)[2:] == [
        VaultKeyCreated(key=new, version=2, custody="file"),
        VaultKeyActivated(key=new),
    ]
    assert house.password_in(keyholder.release(house.request())) == house.password
    assert keyholder.health().keys == 2


def test_private_keys_rest_encrypted_and_for_their_owner_only(house: House) -> None:
    keys = house.state / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    for path in keys.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {path.read_bytes().splitlines()[0] for path in keys.glob("*.pem")} == {
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
    }


@pytest.mark.parametrize("content", [None, b"", b"\n", b"wrong", bytes(5000)])
def test_a_missing_or_wrong_passphrase_is_one_clear_error(house: House, content: bytes | None) -> None:
    passphrase = house.state / "keys" / "passphrase"
    passphrase.unlink()
    if content is not None:
        passphrase.write_bytes(content)
    with pytest.raises(Unreadable) as unreadable:
        house.holding().release(house.request(), CALLER)
    assert "passphrase" in str(unreadable.value)
    assert "wrong" not in str(unreadable.value).replace(str(house.state), "")
    assert not [event for event in house.found() if isinstance(event, CredentialReleased)]


def test_a_passphrase_is_written_once(tmp_path: Path) -> None:
    assert create_passphrase(tmp_path / "passphrase")
    written = (tmp_path / "passphrase").read_bytes()
    assert not create_passphrase(tmp_path / "passphrase")
    assert (tmp_path / "passphrase").read_bytes() == written


def test_a_key_that_nothing_was_recorded_of_is_not_kept(house: House) -> None:
    custody = FileCustody(house.state / "keys", house.state / "keys" / "passphrase")
    stray = custody.create()
    keyring = house.holding().keyring()
    assert stray.thumbprint not in keyring
    custody.destroy(stray.thumbprint)
    assert len(list((house.state / "keys").glob("*.pem"))) == 1


def test_a_vault_without_a_key_says_so(empty_house: House) -> None:
    with pytest.raises(NotAllowed, match="no key yet"):
        empty_house.holding().keyring()


# what ends while it is decided


@pytest.mark.parametrize("ending", ["run", "tenant"])
def test_nothing_is_released_to_what_ended_while_it_was_decided(house: House, ending: str) -> None:
    events = house.events()

    def clock() -> datetime:
        """Asked between the look at the events and the append."""
        if ending == "run":
            held = events.read(run_stream(house.run))
            if not isinstance(held[-1].event, RunCancelled):
                house.append(run_stream(house.run), RunCancelled(reason="left"))
        elif not isinstance(events.read(tenant_stream(house.tenant))[-1].event, TenantSuspended):
            house.append(tenant_stream(house.tenant), TenantSuspended(reason="left"))
        return datetime.now(UTC)

    holding = Holding(house.events(), house.secrets, open_custody(house.settings), clock)
    with pytest.raises(ReleaseRefused):
        holding.release(house.request(), CALLER)
    assert isinstance(house.found()[-1], ReleaseDenied)


# an event store that is exchanged under a keyholder at work


def _without_log(house: House) -> None:
    for end in ("-wal", "-shm"):
        (house.state / f"events.db{end}").unlink(missing_ok=True)


def test_nothing_is_released_once_the_event_store_was_deleted(house: House) -> None:
    keyholder = house.keyholder()
    keyholder.release(house.request())
    (house.state / "events.db").unlink()
    _without_log(house)
    for refusal in (StoreReplaced, Unreadable):
        with pytest.raises(refusal):
            keyholder.release(house.request())


def test_nothing_is_released_once_the_event_store_was_cut_off(house: House) -> None:
    keyholder = house.keyholder()
    keyholder.release(house.request())
    os.truncate(house.state / "events.db", 0)
    with pytest.raises(StoreReplaced):
        keyholder.release(house.request())


def test_an_event_store_that_was_put_back_counts_and_not_what_was_remembered(house: House) -> None:
    backup = house.state / "backup.db"
    shutil.copy(house.state / "events.db", backup)
    keyholder = house.keyholder()
    keyholder.release(house.request())
    _without_log(house)
    backup.rename(house.state / "events.db")
    house.append(house.stream, CredentialRevoked(reason="left"))
    with pytest.raises(StoreReplaced):
        keyholder.release(house.request())
    with pytest.raises(ReleaseRefused, match="revoked"):
        keyholder.release(house.request())
    assert [type(event) for event in house.found()[1:]] == [CredentialRevoked, ReleaseDenied]


def test_nothing_is_released_into_a_log_that_was_deleted(house: House) -> None:
    keyholder = house.keyholder()
    keyholder.release(house.request())
    _without_log(house)
    with pytest.raises(StoreReplaced):
        keyholder.release(house.request())


def _cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _without_beginning(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(32))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("events.db-wal", lambda path: os.truncate(path, 0)),
        ("events.db-wal", _cut_in_half),
        ("events.db-wal", _without_beginning),
        ("events.db-shm", Path.unlink),
    ],
    ids=["emptied", "cut in half", "without its beginning", "without its index"],
)
def test_nothing_is_released_into_a_log_that_was_spoilt(
    house: House, name: str, spoil: Callable[[Path], object]
) -> None:
    keyholder = house.keyholder()
    keyholder.release(house.request())

    spoil(house.state / name)

    for _ in range(2):
        with pytest.raises(TransientError):
            keyholder.release(house.request())
