"""SQLite files that follow the event store: made whole or not at all, and written together with their position."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eventsourcing.persistence import IntegrityError, PersistenceError, Tracking
from eventsourcing.sqlite import SQLiteCursor, SQLiteTrackingRecorder

from eventstore.store import sqlite_datastore, storage_error


class Tables(SQLiteTrackingRecorder):
    """An open file. Its position is that of the last event it has taken in."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(sqlite_datastore(path))
        self._path = path
        self._name = name

    def position(self) -> int:
        """0 before the first event."""
        with self.reading() as cursor:
            return self._max_tracking_id(self._name, cursor) or 0

    @contextmanager
    def reading(self) -> Iterator[SQLiteCursor]:
        with _storing(self._path), self.datastore.transaction(commit=False) as cursor:
            yield cursor

    @contextmanager
    def moving(self, before: int, after: int) -> Iterator[SQLiteCursor | None]:
        """One transaction that moves the position and writes what belongs to it. None: another process moved it."""
        with _storing(self._path), self.datastore.transaction(commit=True) as cursor:
            cursor.execute(
                "UPDATE tracking SET notification_id=notification_id WHERE application_name=?", (self._name,)
            )
            if (self._max_tracking_id(self._name, cursor) or 0) != before:
                yield None
                return
            self._insert_tracking(cursor, Tracking(self._name, after))
            yield cursor

    def close(self) -> None:
        self.datastore.close()


def make_file(path: Path, statements: Sequence[str], shape: int) -> None:
    """Makes the file with its tables unless it is there in this `shape` (kept as SQLite's user_version).

    It is built beside its place and then linked or renamed there, so several processes may do this at once. A database
    of another shape is replaced: everything in it comes from the events. Raises `Unreadable` for what is none.
    """
    if path.exists() and _shape(path) == shape:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(descriptor)
    building = Path(name)
    try:
        with _storing(building):
            _build(building, statements, shape)
        if path.exists():
            for side in ("-wal", "-shm"):
                path.with_name(path.name + side).unlink(missing_ok=True)
            building.replace(path)
        else:
            try:
                os.link(building, path)
            except FileExistsError:
                make_file(path, statements, shape)
    finally:
        building.unlink(missing_ok=True)


def _build(path: Path, statements: Sequence[str], shape: int) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in (
            *statements,
            "CREATE TABLE tracking (application_name TEXT PRIMARY KEY, notification_id INTEGER) WITHOUT ROWID",
            f"PRAGMA user_version={shape}",
            "PRAGMA journal_mode=WAL",
        ):
            database.execute(statement)
    finally:
        database.close()


def _shape(path: Path) -> int:
    with _storing(path):
        database = sqlite3.connect(path)
        try:
            return int(database.execute("PRAGMA user_version").fetchone()[0])
        finally:
            database.close()


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Turns the database's errors into ours; `IntegrityError` passes, it is for the caller to judge."""
    try:
        yield
    except IntegrityError:
        raise
    except (PersistenceError, sqlite3.Error) as error:
        raise storage_error(str(path), error, "projection") from error
