"""The line between the keyholder and its callers: one Unix socket, whole frames, deadlines."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from domain.errors import KeyholderUnavailable
from vault.messages import LENGTH_BYTES, body_length

SOCKET = "keyholder.sock"
MAX_PATH = 107
"""Bytes of a socket's path that fit `sockaddr_un` (unix(7): 108 with the final NUL)."""
FRAME_SECONDS = 10.0
"""From the first byte of a frame to its last."""
ALREADY_RUNS = 3
"""Exit code of a keyholder that finds another one at work."""
_UCRED = struct.Struct("3i")


class Peer(msgspec.Struct, frozen=True):
    """The process at the other end, as the kernel knows it (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int


@contextmanager
def address(path: Path) -> Iterator[str]:
    """An address for `path` that fits, however deep it lies: through the opened directory when it is too long."""
    if len(os.fsencode(path)) <= MAX_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def peer_of(connection: socket.socket) -> Peer:
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid)


def receive(connection: socket.socket, wait_seconds: float) -> bytes | None:
    """The next body, or None when the other side has closed, or said nothing for `wait_seconds`.

    Raises `ProtocolViolation` for a length that is not allowed, before anything of that length is read, and
    `KeyholderUnavailable` for a frame that is cut off or takes longer than `FRAME_SECONDS`.
    """
    connection.settimeout(wait_seconds)
    try:
        first = connection.recv(1)
    except TimeoutError:
        return None
    if not first:
        return None
    deadline = time.monotonic() + FRAME_SECONDS
    length = body_length(first + _exactly(connection, LENGTH_BYTES - 1, deadline))
    return _exactly(connection, length, deadline)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise KeyholderUnavailable(f"a message took longer than {FRAME_SECONDS:.0f} s")
        connection.settimeout(left)
        try:
            some = connection.recv(size - len(received))
        except TimeoutError:
            continue
        if not some:
            raise KeyholderUnavailable("the connection ended inside a message")
        received += some
    return bytes(received)


def send(connection: socket.socket, frame: bytes) -> None:
    connection.settimeout(FRAME_SECONDS)
    connection.sendall(frame)
