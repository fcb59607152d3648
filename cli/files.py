"""Files that commands read and write: bounded, whole or not at all, and refusals in our words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from domain.errors import NotAllowed, StorageFull, TenantryError, Unreadable

MAX_TEXT = 64 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_text(path: Path, what: str, remedy: str = "Check the path.") -> str:
    """At most `MAX_TEXT` bytes of UTF-8. Raises `Unreadable`."""
    try:
        return read_bytes(path, what, remedy).decode()
    except UnicodeDecodeError:
        raise Unreadable(what, str(path), "it is not text", remedy) from None


def read_bytes(path: Path, what: str, remedy: str = "Check the path.") -> bytes:
    """At most `MAX_TEXT`. Raises `Unreadable`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise Unreadable(what, str(path), error.strerror or str(error), remedy) from error
    if len(content) > MAX_TEXT:
        raise Unreadable(what, str(path), f"it has more than {MAX_TEXT // 1024} KiB", remedy)
    return content


def write_atomically(path: Path, content: bytes, mode: int) -> None:
    """Written beside its place, synced, renamed: the file is old or new, never half.

    Raises `StorageFull` or `NotAllowed`.
    """
    if not path.name:
        raise NotAllowed(f"write {path}", "it is a directory", "Name a file.")
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise refused(f"write {path}", path, error) from error


def refused(command: str, path: Path, error: OSError) -> TenantryError:
    """What the operating system refused: `StorageFull`, or `NotAllowed` with `command`."""
    why = error.strerror or str(error)
    if error.errno in FULL:
        return StorageFull(str(path), why)
    return NotAllowed(command, why, "Check the path and its permissions.")
