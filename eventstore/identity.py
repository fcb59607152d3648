"""Whether the database that is open is still the one at its path.

SQLite goes on reading and writing a file that was deleted, or that another one took the place of: what is appended
there stands nowhere, and what others append is not seen. So everybody looks when he has read or appended.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock

from domain.errors import StoreReplaced

_LOG = "-wal"


class FileIdentity:
    """The files of a database as they were found first. Any thread.

    The main file does not shrink, for nobody vacuums it. The log is made by the first transaction and stays, the same
    one, until the last connection is closed.
    """

    def __init__(self, path: Path) -> None:
        """Before the first connection. Raises `OSError`."""
        self._path = path
        self._log_path = path.with_name(path.name + _LOG)
        self._file = _identity(path.stat())
        self._size = 0
        self._log: tuple[int, int] | None = None
        self._looking = Lock()

    def check(self) -> None:
        """After a transaction. Raises `StoreReplaced`."""
        with self._looking:
            try:
                file, log = self._path.stat(), _identity(self._log_path.stat())
            except OSError as error:
                raise StoreReplaced(str(self._path), error.strerror or str(error)) from error
            if _identity(file) != self._file or log != (self._log or log):
                raise StoreReplaced(str(self._path), "another file has taken its place")
            if file.st_size < self._size:
                raise StoreReplaced(str(self._path), "it was cut off")
            self._size, self._log = file.st_size, log


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
