"""The keyholder: a process of its own with the vault's keys.

`python -m vault.keyholder`, with the settings as JSON on its input. It knows no Ray and unpickles nothing. What it does
is in `vault.holding`, whom it serves in `vault.server`, what it says in `vault.messages`. There is one per state
directory; it logs to `keyholder.log` there, as JSON lines without secrets, and prints only that it cannot start.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Lock
from typing import Any, Final

import msgspec
import structlog

from crypto.opening import open_secret_store
from crypto.stores import EVENT_KEY
from domain.errors import NotAllowed, StoreReplaced, TenantryError, Unreadable
from domain.settings import Settings
from eventstore.store import open_event_store
from vault.custody import open_custody
from vault.hardening import detach, lock_memory, refuse_dumps
from vault.holding import Holding
from vault.line import ALREADY_RUNS, SOCKET, address
from vault.messages import Answer, Hello, Request
from vault.server import MAX_CONNECTIONS, Server

LOG: Final = "keyholder.log"
LOCK: Final = "keyholder.lock"
FAILED: Final = 1
_LOG_BYTES: Final = 5 * 1024 * 1024
_MAX_SETTINGS: Final = 256 * 1024


class _Vault:
    """Opens the stores at the first request that needs them, so that whoever asks learns why they cannot be opened."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._holding: Holding | None = None
        self._opening = Lock()

    def answer(self, request: Request, caller: str) -> Answer:
        if isinstance(request, Hello):
            return Hello(pid=os.getpid())
        holding = self._open()
        try:
            return holding.answer(request, caller)
        except StoreReplaced:
            self._abandon(holding)
            raise

    def _open(self) -> Holding:
        with self._opening:
            if self._holding is None:
                secrets = open_secret_store(self._settings)
                events = open_event_store(self._settings.eventstore, secrets.get(EVENT_KEY))
                self._holding = Holding(events, secrets, open_custody(self._settings), lambda: datetime.now(UTC))
            return self._holding

    def _abandon(self, holding: Holding) -> None:
        """What it remembers is of a file that is gone: the next request opens what is there. Not closed, for other
        threads may be at work with it; they are told the same."""
        with self._opening:
            if self._holding is holding:
                self._holding = None

    def close(self) -> None:
        if self._holding is not None:
            self._holding.close()


def _log_to(path: Path) -> Any:
    """JSON lines, at most two files of 5 MiB."""
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, delay=True)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.Logger("keyholder", logging.INFO)
    logger.addHandler(handler)
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(),
    ]
    return structlog.wrap_logger(logger, processors=processors, wrapper_class=structlog.BoundLogger)


def _only_one(state: Path) -> int | None:
    """The lock that makes this the only keyholder of a state directory, None when there is one already."""
    descriptor = os.open(state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _listen(path: Path, *, for_others: bool) -> socket.socket:
    """Only for who has the lock: a socket that lies there was left by a keyholder that was killed.

    `for_others`: other users may open a connection too; whom it serves the server asks the kernel, not the file's mode.
    """
    if path.is_symlink():
        raise NotAllowed("listen", f"{path} leads to a keyholder elsewhere", "Start that one.")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with address(path) as place:
        listener.bind(place)
    path.chmod(0o666 if for_others else 0o600)
    listener.listen(MAX_CONNECTIONS)
    return listener


def _settings() -> Settings:
    try:
        return msgspec.json.decode(sys.stdin.buffer.read(_MAX_SETTINGS), type=Settings)
    except msgspec.DecodeError as error:
        raise Unreadable("settings", "on standard input", str(error), "Start it through `tenantry`.") from None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vault.keyholder", description="Holds the vault's keys.")
    parser.add_argument("--detach", action="store_true", help="return as soon as it listens")
    parser.add_argument("--idle-seconds", type=float, default=0.0, help="end when nobody was connected for so long")
    parser.add_argument("--allow-uid", type=int, action="append", default=[], help="serve this user too")
    parser.add_argument("--socket", type=Path, help=f"listen here and not at {SOCKET} in the state directory")
    return parser.parse_args()


def _hold(settings: Settings, listener: socket.socket, path: Path, users: Collection[int], idle_seconds: float) -> None:
    log = _log_to(Path(settings.state) / LOG)
    vault = _Vault(settings)
    server = Server(listener, vault.answer, users, idle_seconds, log)
    signal.set_wakeup_fd(server.wakeup, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.end())
    log.info("started", pid=os.getpid(), uid=os.geteuid(), memory_locked=lock_memory())
    try:
        log.info("ended", why=server.serve(), pid=os.getpid())
    finally:
        path.unlink(missing_ok=True)
        vault.close()


def main() -> int:
    """Exit codes: 0 served (or detached), 1 cannot start, 3 another one serves this state directory."""
    arguments = _arguments()
    refuse_dumps()
    os.umask(0o077)
    try:
        settings = _settings()
        state = Path(settings.state)
        lock = _only_one(state)
        if lock is None:
            return ALREADY_RUNS
        path = arguments.socket or state / SOCKET
        listener = _listen(path, for_others=bool(arguments.allow_uid))
    except (TenantryError, OSError) as error:
        sys.stderr.write(f"The keyholder cannot start: {error}\n")
        return FAILED
    if arguments.detach and not detach():
        return 0
    _hold(settings, listener, path, {os.geteuid(), *arguments.allow_uid}, arguments.idle_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
