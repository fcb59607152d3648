"""Who may use credentials now, in a state directory, and what must stand before anybody does."""

from __future__ import annotations

import fcntl
import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cli.command import tell
from cli.replacement import settled
from cli.state import State
from domain.errors import NotAllowed, Unreadable
from domain.tenant import Tenant

LOCK = "collect.lock"
WAIT = {
    "collect": "Wait for it, or give --detach.",
    "store the credential": "Wait for it, or give --no-verify.",
}


@contextmanager
def turn(state: State, command: str = "collect") -> Iterator[None]:
    """One at a time in a state directory uses credentials: a `collect`, or an operator who verifies one. So nobody
    tries a password while another does; and what a killed one has left half replaced is undone first, and told. Raises
    `NotAllowed`."""
    descriptor = os.open(state.directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            why = f"another `tenantry collect` (or a verification) is at work in {state.directory}"
            raise NotAllowed(command, why, WAIT.get(command, "Wait for it.")) from None
        for said in settled(state):
            tell(said)
        yield
    finally:
        os.close(descriptor)


def check_authorities(state: State, asked: Sequence[Tenant]) -> None:
    """Raises `Unreadable` for a cloud whose file of certificate authorities cannot be used."""
    for name in sorted({tenant.cloud for tenant in asked}):
        cloud = state.settings.clouds.get(name)
        if cloud is None:
            raise NotAllowed("collect", f"cloud {name!r} is not configured", f"Add [clouds.{name}] to tenantry.toml.")
        if not cloud.ca_bundle:
            continue
        remedy = f"Correct clouds.{name}.ca_bundle (see `tenantry config show`)."
        try:
            ssl.create_default_context(cafile=cloud.ca_bundle)
        except ssl.SSLError:
            raise Unreadable("CA bundle", cloud.ca_bundle, "it is no PEM file of certificates", remedy) from None
        except OSError as error:
            raise Unreadable("CA bundle", cloud.ca_bundle, error.strerror or str(error), remedy) from None
