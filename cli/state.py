"""The state directory: made whole by `init`, checked by everyone else; and what commands open of it."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import msgspec

from actors.stores import open_store
from cli.command import INCOMPLETE, Session, now, operator
from cli.files import read_text, refused, write_atomically
from cli.ledger import cover, sign_checkpoint
from cli.refusals import refusal_of
from crypto.checkpoint import LedgerKey
from crypto.keyring import VaultPublicKey, parse_public
from crypto.opening import open_secret_store
from crypto.stores import EVENT_KEY, LEDGER_KEY, SecretStore
from domain import tenant as tenants
from domain.errors import (
    AlreadyExists,
    NotAllowed,
    SecretMissing,
    StateVersionMismatch,
    TenantryError,
    Unreadable,
)
from domain.events import TenantEvent
from domain.ids import Stream, TenantId, tenant_id, tenant_stream
from domain.settings import Settings, without_secrets
from domain.tenant import Tenant
from eventstore.batches import open_batch_store
from eventstore.mapper import KEY_BYTES
from eventstore.store import EventStore, create_event_store
from eventstore.streams import Held
from vault.client import Keyholder, connect, owner_process
from vault.custody import create_passphrase

VERSION = "1"
VERSION_FILE = "version"
PUBLIC_KEY_FILE = "vault-public.jwks"
STOP_SECONDS = 10.0
MADE = ("state", "eventstore", "secrets", "batches", "passphrase_file")
"""Settings that name what `init` makes."""

S = TypeVar("S")
E = TypeVar("E")


class State:
    """An initialised state directory. Raises `NotAllowed` where there is none, `StateVersionMismatch` for another.

    `covered`: the last position before this was opened, or when it last signed a checkpoint.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = Path(settings.state)
        self.covered = 0
        check_version(self.directory)

    @cached_property
    def secrets(self) -> SecretStore:
        return open_secret_store(self.settings)

    @cached_property
    def store(self) -> EventStore:
        store = open_store(self.settings)
        self.covered = store.last_position()
        return store

    @cached_property
    def keyholder(self) -> Keyholder:
        """It appends events by itself: so the store is opened before."""
        self.store.last_position()
        return connect(self.settings)

    def has_news(self) -> bool:
        """Whether anything was appended past `covered`, by this command or meanwhile by others."""
        return "store" in self.__dict__ and self.store.last_position() > self.covered

    def close(self) -> None:
        for name in ("store", "keyholder"):
            if opened := self.__dict__.pop(name, None):
                opened.close()

    @property
    def views(self) -> Path:
        """The file of the views, which can be deleted and is made again from the events."""
        return self.directory / "views.db"

    def public_key(self) -> VaultPublicKey:
        path = self.directory / PUBLIC_KEY_FILE
        return parse_public(read_text(path, "public key", "Write it again with `tenantry vault public-key`."))

    def publish(self, jwks: str) -> None:
        write_atomically(self.directory / PUBLIC_KEY_FILE, jwks.encode(), 0o644)

    def held(self, stream: Stream, evolve: Callable[[S, E], S], initial: S) -> Held[S, E]:
        return Held(self.store, stream, evolve, initial)

    def decide(self, held: Held[S, E], decision: Callable[[S], Sequence[E]], cause: str) -> bool:
        """Appends for the operator; whether anything changed."""
        return bool(held.decide(decision, at=now(), actor=operator(), cause=cause))

    def tenant_stream(self, text: str) -> Held[Tenant | None, TenantEvent]:
        """Of a registered tenant; raises `Malformed` or `Unknown`."""
        tenant = tenant_id(text)
        held: Held[Tenant | None, TenantEvent] = self.held(tenant_stream(tenant), tenants.evolve, None)
        tenants.known(held.state, tenant)
        return held

    def tenant(self, text: str) -> Tenant:
        return tenants.known(self.tenant_stream(text).state, TenantId(text))


def opened(session: Session) -> State:
    """The state directory of a command, closed when the command ends."""
    state = State(session.settings)
    session.closing.push(partial(closed, session, state))
    return state


def closed(session: Session, state: State, kind: type[BaseException] | None, *_: object) -> None:
    """Signs a checkpoint over what the command appended, however it ended, and closes the state directory.

    What hinders that is told, unless the command itself failed, and leaves the command incomplete.
    """
    try:
        cover(state, session.command)
    except TenantryError as error:
        if kind is None:
            why = refusal_of(error)
            session.refuse(why._replace(error=f"Done, but no checkpoint could be signed: {why.error}"), INCOMPLETE)
            session.incomplete = True
    finally:
        state.close()


def check_version(directory: Path) -> None:
    try:
        found = (directory / VERSION_FILE).read_bytes()[:20].decode(errors="replace").strip()
    except FileNotFoundError:
        raise NotAllowed(
            "use the state directory", f"{directory} is not initialised", "Run `tenantry init` first, or give --state."
        ) from None
    except OSError as error:
        raise Unreadable("state directory", str(directory), error.strerror or "", "Check its permissions.") from error
    if found != VERSION:
        raise StateVersionMismatch(str(directory), found, VERSION)


def initialise(settings: Settings) -> str:
    """Makes the state directory with its keys and event store; returns the public JWKS.

    Everything is built beside its place and moved there, the version file last, so a failure leaves nothing behind.
    Other files in the directory stay. Raises `AlreadyExists`, `NotAllowed` or `StorageFull`.
    """
    final = Path(settings.state)
    try:
        if (final / VERSION_FILE).exists():
            raise AlreadyExists("State directory", str(final), "Use it, or give another with --state.")
        made = not final.exists()
        final.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return _initialise(settings, final)
        except BaseException:
            if made:
                final.rmdir()
            raise
    except OSError as error:
        raise refused(f"initialise {final}", final, error) from error


def _initialise(settings: Settings, final: Path) -> str:
    building = Path(tempfile.mkdtemp(prefix=".init-", dir=final))
    moved: list[Path] = []
    temporary = relocated(settings, building)
    try:
        jwks = _build(temporary)
        for path in sorted(building.iterdir(), key=lambda path: path.name == VERSION_FILE):
            if (final / path.name).exists():
                raise NotAllowed("initialise", f"{final / path.name} is in the way", "Give another with --state.")
            moved.append(path.rename(final / path.name))
    except BaseException:
        for path in moved:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        stop_keyholder(temporary)
        raise
    finally:
        shutil.rmtree(building)
    return jwks


def relocated(settings: Settings, directory: Path) -> Settings:
    """The same settings with what is made in the state directory made in another directory. What lies elsewhere stays
    there, also where its name begins with that of the state directory."""
    inside = re.compile(rf"(?P<scheme>(?:[a-z]+://)?){re.escape(settings.state)}(?P<rest>/.*)?", re.DOTALL)

    def moved(place: str) -> str:
        found = inside.fullmatch(place)
        return f"{found['scheme']}{directory}{found['rest'] or ''}" if found else place

    return msgspec.structs.replace(settings, **{name: moved(getattr(settings, name)) for name in MADE})


def _build(settings: Settings) -> str:
    secrets = open_secret_store(settings)
    _refuse_used(secrets, settings.secrets)
    try:
        return _built(settings, secrets)
    except BaseException:
        for name in (EVENT_KEY, LEDGER_KEY):
            with suppress(TenantryError):
                secrets.delete(name)
        raise


def _refuse_used(secrets: SecretStore, url: str) -> None:
    """Another state directory's event key, written over, would take all its events with it."""
    for name in (EVENT_KEY, LEDGER_KEY):
        with suppress(SecretMissing):
            secrets.get(name)
            why = f"{without_secrets(url)} holds the {name} of another state directory"
            raise NotAllowed("initialise", why, "Give a secret store of its own ([secrets] url), or use that one.")


def _built(settings: Settings, secrets: SecretStore) -> str:
    directory = Path(settings.state)
    secrets.put(EVENT_KEY, os.urandom(KEY_BYTES))
    with LedgerKey.generate().to_secret() as ledger_key:
        secrets.put(LEDGER_KEY, ledger_key.reveal())
    create_passphrase(Path(settings.passphrase_file))
    open_batch_store(settings.batches)
    create_event_store(settings.eventstore)
    write_atomically(directory / VERSION_FILE, f"{VERSION}\n".encode(), 0o600)
    with connect(settings) as keyholder:
        keyholder.create_vault_key(operator(), "init")
        jwks = keyholder.public_keys()
    stop_keyholder(settings)
    write_atomically(directory / PUBLIC_KEY_FILE, jwks.encode(), 0o644)
    with closing(State(settings)) as state:
        sign_checkpoint(state, "init")
    return jwks


def stop_keyholder(settings: Settings) -> None:
    """Asks the keyholder of this state directory to end and waits until it has."""
    pid = owner_process(settings)
    if pid is None:
        return
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        select.select([descriptor], [], [], STOP_SECONDS)
    finally:
        os.close(descriptor)
