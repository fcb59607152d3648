"""Whether the database that is open is still the one at its path.

SQLite goes on reading and writing a file that was deleted, or that another one took the place of: what is appended
there stands nowhere, and what others append is not seen. So everybody looks when he has read or appended.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock

from domain.errors import StoreReplaced

_LOG, _INDEX = "-wal", "-shm"
_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
"""What a write-ahead log begins with (sqlite.org/fileformat2.html#walformat)."""


class FileIdentity:
    """The files of a database as they were found first. Any thread.

    No file shrinks: nobody vacuums the main one, and the log is written over from its beginning. Log and index are made
    by the first transaction and stay, the same ones, until the last connection is closed.
    """

    def __init__(self, path: Path) -> None:
        """Before the first connection. Raises `OSError`."""
        self._path = path
        self._log = path.with_name(path.name + _LOG)
        self._beside = (self._log, path.with_name(path.name + _INDEX))
        self._identities = {path: _identity(path.stat())}
        self._sizes: dict[Path, int] = {}
        self._looking = Lock()

    def check(self) -> None:
        """After a transaction. Raises `StoreReplaced`."""
        with self._looking:
            try:
                found = {path: path.stat() for path in (self._path, *self._beside)}
                whole = self._log_begins()
            except OSError as error:
                raise StoreReplaced(str(self._path), error.strerror or str(error)) from error
            for path, status in found.items():
                if _identity(status) != self._identities.setdefault(path, _identity(status)):
                    raise StoreReplaced(str(self._path), "another file has taken its place")
                if status.st_size < self._sizes.get(path, 0):
                    raise StoreReplaced(str(self._path), "it was cut off")
                self._sizes[path] = status.st_size
            if not whole:
                raise StoreReplaced(str(self._path), "its log was written over")

    def _log_begins(self) -> bool:
        with self._log.open("rb") as log:
            beginning = log.read(4)
        return not beginning or beginning in _MAGIC


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
