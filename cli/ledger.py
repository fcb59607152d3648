"""The signed ledger of a state directory: checkpoints and verification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli.command import now, operator
from crypto.checkpoint import LedgerKey
from crypto.secret import Secret
from crypto.stores import EVENT_KEY, LEDGER_KEY
from domain.errors import Malformed, NotAllowed, Unreadable
from domain.settings import without_secrets
from eventstore.store import sqlite_path
from projections.ledger import Ledger
from projections.verify import Verification
from projections.verify import verify as verify_files

if TYPE_CHECKING:
    from cli.state import State

REMAKE = (
    "Restore it from a backup, or verify with a checkpoint that was kept elsewhere (`tenantry audit verify --witness"
    " FILE`) and have it made again from the events with `tenantry audit checkpoint`."
)


def verified(state: State, witnesses: Sequence[str]) -> Verification:
    events = sqlite_path(state.settings.eventstore)
    if events is None:
        raise Malformed("event store", without_secrets(state.settings.eventstore), "a file")
    key = ledger_key(state)
    return verify_files(
        events, ledger_path(state), key.public, event_key=state.secrets.get(EVENT_KEY), witnesses=witnesses
    )


def sign_checkpoint(state: State, cause: str) -> None:
    """Over everything recorded so far. The ledger's record is made where it is missing."""
    with opened_ledger(state) as (ledger, _):
        _sign(state, ledger, cause)


def cover(state: State, cause: str) -> None:
    """Signs a checkpoint when events have come since the state directory was opened. Whoever may not read the ledger
    key leaves that to those who may. Raises `Unreadable` when the ledger's record is missing or was emptied: `init` has
    signed a checkpoint, so it has leaves and a copy of that. It is to be noticed, and not made again without a word."""
    if not state.has_news():
        return
    try:
        state.secrets.get(LEDGER_KEY)
    except NotAllowed:
        return
    path = ledger_path(state)
    if not path.exists():
        raise Unreadable("ledger's record", str(path), "there is no such file", REMAKE)
    with opened_ledger(state) as (ledger, _):
        if not ledger.size or not ledger.notes():
            raise Unreadable("ledger's record", str(path), "it was emptied", REMAKE)
        _sign(state, ledger, cause)


def _sign(state: State, ledger: Ledger, cause: str) -> None:
    ledger.sign(at=now(), actor=operator(), cause=cause)
    state.covered = state.store.last_position()


@contextmanager
def opened_ledger(state: State) -> Iterator[tuple[Ledger, LedgerKey]]:
    key = ledger_key(state)
    ledger = Ledger(state.store, ledger_path(state), key, origin(key))
    try:
        yield ledger, key
    finally:
        ledger.close()


def ledger_key(state: State) -> LedgerKey:
    return LedgerKey.from_secret(Secret(state.secrets.get(LEDGER_KEY)))


def ledger_path(state: State) -> Path:
    return state.directory / "ledger.db"


def origin(key: LedgerKey) -> str:
    """The log's name in its checkpoints, different for each state directory."""
    return f"tenantry/{key.public.hex()[:16]}"
