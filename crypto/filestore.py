"""A secret store in a directory that only its owner enters: one JSON file for each name.

A value is written to a temporary file, flushed to the disk and renamed, then the directory is flushed: after a crash
at any moment there is the old value or the new one. Writers take turns through a lock on the directory, which also
tells the one who has it that any temporary file it meets was left by a writer that died.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec

from crypto.stores import MAX_VALUE, checked_name, checked_value
from domain.errors import NotAllowed, SecretMissing, StorageFull, StoreUnavailable, Unreadable

_SUFFIX = ".secret"
_TEMPORARY = ".tmp"
_MAX_FILE = 4 * MAX_VALUE
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: `value` is base64 in JSON."""

    version: str
    tags: dict[str, str]
    value: bytes


class FileSecretStore:
    at_once = 1

    def __init__(self, directory: Path | str) -> None:
        """Makes the directory, and takes everybody else's permissions from one that exists."""
        self._directory = Path(directory)
        with explained(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._directory.stat().st_mode & 0o777 != 0o700:
                self._directory.chmod(0o700)
            with self._turn():
                for left_behind in self._directory.glob(f"*{_TEMPORARY}"):
                    left_behind.unlink(missing_ok=True)

    def get(self, name: str) -> bytes:
        """Raises `SecretMissing`, and `Unreadable` for a file that is not as this store writes it."""
        path = self._path(name)
        with explained(path):
            try:
                with path.open("rb") as file:
                    stored = file.read(_MAX_FILE)
            except FileNotFoundError:
                raise SecretMissing(name) from None
        try:
            return msgspec.json.decode(stored, type=_Stored).value
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unreadable("secret", str(path), "it is damaged", "Restore it, or put the secret again.") from None

    def put(self, name: str, value: bytes, tags: Mapping[str, str] = {}) -> str:
        path = self._path(name)
        checked_value(value, tags)
        with explained(path), self._turn() as directory:
            return _replace(path, value, tags, directory)

    def exchange(self, name: str, former: bytes, value: bytes) -> bool:
        path = self._path(name)
        checked_value(value, {})
        with explained(path), self._turn() as directory:
            try:
                found = self.get(name)
            except SecretMissing:
                return False
            if found != former:
                return False
            _replace(path, value, {}, directory)
            return True

    def delete(self, name: str) -> None:
        path = self._path(name)
        with explained(path), self._turn() as directory:
            path.unlink(missing_ok=True)
            os.fsync(directory)

    def names(self, prefix: str) -> list[str]:
        """A file that is named as no secret can be is listed all the same: somebody has put it there."""
        with explained(self._directory):
            found = [_text(path.stem) for path in self._directory.iterdir() if path.suffix == _SUFFIX]
        return sorted(name for name in found if name.startswith(prefix))

    def _path(self, name: str) -> Path:
        return self._directory / f"{checked_name(name)}{_SUFFIX}"

    @contextmanager
    def _turn(self) -> Iterator[int]:
        """The directory, locked."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield directory
        finally:
            os.close(directory)


def _text(file_name: str) -> str:
    """What in it is no text is a question mark."""
    return file_name.encode(errors="replace").decode()


def _replace(path: Path, value: bytes, tags: Mapping[str, str], directory: int) -> str:
    """With the directory's lock. What a writer that died has left under this name goes first."""
    stored = _Stored(version=uuid4().hex, tags=dict(tags), value=value)
    temporary = path.with_suffix(_TEMPORARY)
    temporary.unlink(missing_ok=True)
    try:
        _write(temporary, msgspec.json.encode(stored))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    os.fsync(directory)
    return stored.version


def _write(path: Path, data: bytes) -> None:
    """A new file, readable by its owner only, on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


@contextmanager
def explained(
    path: Path, what: str = "secret store", remedy: str = "Run as the user that owns the secrets."
) -> Iterator[None]:
    """What the operating system refused, in our words: `NotAllowed` with `remedy`, `StorageFull`, or that `what` does
    not answer."""
    try:
        yield
    except PermissionError:
        raise NotAllowed(f"use {path}", "this user may not", remedy) from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        if error.errno in _FULL:
            raise StorageFull(str(path), why) from None
        raise StoreUnavailable(what, f"{path}: {why}") from None
