"""The keyholder as everybody else sees it: ask, and get ciphertext. Here is no key and nothing that opens one."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Final, TypeVar

import msgspec

from crypto import credential, datakey
from crypto.credential import Payload
from crypto.datakey import DataKey
from crypto.secret import Secret
from crypto.transit import TransitKey
from domain.errors import KeyholderUnavailable, ProtocolViolation
from domain.events import Retained
from domain.settings import Settings
from vault.line import ALREADY_RUNS, SOCKET, address, receive, send
from vault.messages import (
    BUSY,
    Answer,
    CreateDataKey,
    CreateVaultKey,
    Destroyed,
    DestroyVaultKey,
    Done,
    Health,
    Healthy,
    Hello,
    ListVaultKeys,
    PublicKeys,
    PublicKeySet,
    Refused,
    Release,
    ReleaseDataKey,
    Request,
    Resealed,
    ResealStep,
    RetireVaultKey,
    RotateVaultKey,
    Sealed,
    VaultKey,
    VaultKeySet,
    data_key_context,
    decode_answer,
    encode,
    raised,
    release_context,
)

IDLE_SECONDS: Final = 20.0
"""How long a keyholder that was started here stays when nobody is connected."""
START_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 90.0
"""Longer than the event store waits for a lock."""
MAX_CONNECTIONS: Final = 8
MOST_PASSES: Final = 5
_RETRY_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0
_ONCE: Final = (CreateVaultKey,)
"""Not asked again when the answer was lost: doing it twice is not doing it once."""

_A = TypeVar("_A", Sealed, Done, Destroyed, PublicKeySet, VaultKeySet, Resealed, Healthy)


class Keyholder:
    """Any thread may call any method. Each raises what the keyholder refused with, from `domain.errors`, and
    `KeyholderUnavailable` when it cannot be reached; it is looked for, and started, anew at the next call.

    Where its socket in the state directory is a link, it is a service of another user, and never started from here."""

    def __init__(self, settings: Settings, *, start: bool, idle_seconds: float = IDLE_SECONDS) -> None:
        self._settings = settings
        self._start = start and not (Path(settings.state) / SOCKET).is_symlink()
        self._idle_seconds = idle_seconds
        self._free: list[socket.socket] = []
        self._lock = Lock()
        self._turns = BoundedSemaphore(MAX_CONNECTIONS)

    def release(self, request: Release) -> bytes:
        """The credential, sealed to the transit key: see `open_released`."""
        return self._asked(request, Sealed).payload

    def release_data_key(self, request: ReleaseDataKey) -> bytes:
        """The tenant's data key, sealed to the transit key: see `open_data_key`."""
        return self._asked(request, Sealed).payload

    def create_data_key(self, tenant: str, actor: str, cause: str) -> str:
        """Its id. A tenant that has one keeps it."""
        return self._asked(CreateDataKey(tenant=tenant, actor=actor, cause=cause), Done).key

    def create_vault_key(self, actor: str, cause: str) -> str:
        """Its thumbprint. It is the active one from now on, those before it still open what was sealed to them."""
        return self._asked(CreateVaultKey(actor=actor, cause=cause), Done).key

    def rotate_vault_key(self, actor: str, cause: str, replaces: str = "") -> str:
        """The thumbprint of the new active key. `replaces`: the key it takes over from, the active one when empty; when
        that is not active any more, this has been done and nothing changes. What is stored stays sealed to the former
        key until `reseal`. Publish `public_keys` afterwards."""
        former = replaces or self.health().active
        return self._asked(RotateVaultKey(replaces=former, actor=actor, cause=cause), Done).key

    def reseal(self, actor: str, cause: str, limit: int = 100) -> Iterator[Resealed]:
        """Seals everything that is stored to the active key, and yields after each step what it did. It goes over the
        store until a pass finds nothing more to do, so the last one that is yielded tells what is left, and why. May
        be given up at any time and begun again."""
        for _ in range(MOST_PASSES):
            more, after = False, ""
            while True:
                step = self.reseal_step(actor, cause, after, limit)
                yield step
                more = more or bool(step.resealed) or any(left.why == BUSY for left in step.left)
                after = step.after
                if not after:
                    break
            if not more:
                return

    def reseal_step(self, actor: str, cause: str, after: str = "", limit: int = 100) -> Resealed:
        """Looks at `limit` items past `after`; a pass begins with an empty `after` and ends with one."""
        return self._asked(ResealStep(actor=actor, cause=cause, after=after, limit=limit), Resealed)

    def retire_vault_key(self, key: str, actor: str, cause: str) -> None:
        """Records that nothing is sealed to it any more. Raises `NotAllowed` while anything is."""
        self._asked(RetireVaultKey(key=key, actor=actor, cause=cause), Done)

    def destroy_vault_key(self, key: str, actor: str, cause: str) -> Retained | None:
        """Of a retired key: afterwards nobody opens anything with it, unless its custody still keeps what is returned.
        Raises `NotAllowed`. May be asked again, which purges what may be purged by then."""
        return self._asked(DestroyVaultKey(key=key, actor=actor, cause=cause), Destroyed).retained

    def vault_keys(self, *, count: bool = False) -> tuple[VaultKey, ...]:
        """All versions in order. `count`: with how much is stored sealed to each, which takes a look at all of it."""
        return self.vault_key_set(count=count).keys

    def vault_key_set(self, *, count: bool = False) -> VaultKeySet:
        """The same, with what could not be counted."""
        return self._asked(ListVaultKeys(count=count), VaultKeySet)

    def public_keys(self) -> str:
        """A JWK Set, the active key first."""
        return self._asked(PublicKeys(), PublicKeySet).jwks

    def health(self) -> Healthy:
        return self._asked(Health(), Healthy)

    def close(self) -> None:
        with self._lock:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def __enter__(self) -> Keyholder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, request: Request, kind: type[_A]) -> _A:
        frame = encode(request)
        with self._turns:
            answer = self._exchanged(frame, repeatable=not isinstance(request, _ONCE))
        if isinstance(answer, Refused):
            raise raised(answer)
        if not isinstance(answer, kind):
            raise ProtocolViolation("keyholder", f"an answer that does not belong to {type(request).__name__}")
        return answer

    def _exchanged(self, frame: bytes, *, repeatable: bool) -> Answer:
        """On a connection that was left open, else (or when that one turns out to be dead) on a new one."""
        left_open = self._take() if repeatable else None
        if left_open is not None:
            try:
                return self._spoken(left_open, frame)
            except KeyholderUnavailable:
                self.close()
        try:
            return self._spoken(self._connected(), frame)
        except KeyholderUnavailable:
            if not repeatable:
                raise
        return self._spoken(self._connected(), frame)

    def _take(self) -> socket.socket | None:
        with self._lock:
            return self._free.pop() if self._free else None

    def _spoken(self, connection: socket.socket, frame: bytes) -> Answer:
        try:
            answer = _exchange(connection, frame)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._free.append(connection)
        return answer

    def _connected(self) -> socket.socket:
        """Looks for it until `START_SECONDS` are over, and starts one when there is none."""
        deadline = time.monotonic() + START_SECONDS
        pause = _RETRY_SECONDS
        while True:
            try:
                return _greeted(self._settings)[0]
            except KeyholderUnavailable:
                if not self._start or time.monotonic() > deadline:
                    raise
            if _started(self._settings, self._idle_seconds) == ALREADY_RUNS:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def connect(settings: Settings, start: bool = True, idle_seconds: float = IDLE_SECONDS) -> Keyholder:
    """Finds the keyholder of this state directory, or starts it. Raises `KeyholderUnavailable`."""
    keyholder = Keyholder(settings, start=start, idle_seconds=idle_seconds)
    keyholder._free.append(keyholder._connected())
    return keyholder


def owner_process(settings: Settings) -> int | None:
    """Process id of the keyholder at work, None when there is none."""
    try:
        connection, hello = _greeted(settings)
    except KeyholderUnavailable:
        return None
    connection.close()
    return hello.pid


def open_released(
    sealed: bytes, transit: TransitKey, *, run: str, tenant: str, slot: str, activation: str, epoch: int
) -> Payload:
    """What `Keyholder.release` sealed, opened by who asked. Raises `SealBroken`."""
    with transit.open(sealed, release_context(run, tenant, slot, activation, epoch)) as secret:
        return open_credential(secret)


def open_credential(secret: Secret) -> Payload:
    return credential.decode(secret)


def open_data_key(sealed: bytes, transit: TransitKey, *, tenant: str, receiver: str) -> DataKey:
    """What `Keyholder.release_data_key` sealed. `receiver`: the run, or the operator. Raises `SealBroken`."""
    with transit.open(sealed, data_key_context(tenant, receiver)) as secret:
        return datakey.from_secret(secret)


def _greeted(settings: Settings) -> tuple[socket.socket, Hello]:
    """A connection on which both sides have said their version. Raises `KeyholderUnavailable`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(START_SECONDS)
        with address(Path(settings.state) / SOCKET) as place:
            connection.connect(place)
        answer = _exchange(connection, encode(Hello()))
    except OSError as error:
        connection.close()
        raise KeyholderUnavailable(f"{Path(settings.state) / SOCKET}: {error.strerror or error}") from None
    except BaseException:
        connection.close()
        raise
    if isinstance(answer, Hello):
        return connection, answer
    connection.close()
    raise raised(answer) if isinstance(answer, Refused) else ProtocolViolation("keyholder", "no greeting")


def _exchange(connection: socket.socket, frame: bytes) -> Answer:
    """One that turns its caller away says why and hangs up, before or while it is spoken to."""
    try:
        with contextlib.suppress(BrokenPipeError):
            send(connection, frame)
        body = receive(connection, ANSWER_SECONDS)
    except OSError as error:
        raise KeyholderUnavailable(f"the connection was lost ({error.strerror or error})") from None
    if body is None:
        raise KeyholderUnavailable(f"it hung up, or said nothing for {ANSWER_SECONDS:.0f} s")
    return decode_answer(body)


def _started(settings: Settings, idle_seconds: float) -> int:
    """Exit code 0 (one listens now) or 3 (another one was there first); any other raises `KeyholderUnavailable`.

    Isolated mode (`-I`): neither the working directory nor the environment says what code it runs.
    """
    command = (sys.executable, "-I", "-m", "vault.keyholder", "--detach", "--idle-seconds", str(idle_seconds))
    try:
        ended = subprocess.run(  # noqa: S603 - our own interpreter and module
            command,
            input=msgspec.json.encode(settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KeyholderUnavailable(f"it did not start within {START_SECONDS:.0f} s") from None
    if ended.returncode not in (0, ALREADY_RUNS):
        said = ended.stderr.decode(errors="replace").strip().splitlines()
        raise KeyholderUnavailable(said[-1][:500] if said else f"it ended with code {ended.returncode}")
    return ended.returncode
