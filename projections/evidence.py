"""The files as they lie there, read for verification: plain SQLite, nothing decoded, nothing believed.

A row of the event store may have been changed to anything, so its values come as bytes with the types SQLite says they
have. Reading goes on past a damaged page as far as the database lets it. One bit of a row stays unseen, because SQLite
never reads it: the type of the position in the record, where it takes the key of the entry instead.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from domain.errors import Unreadable

SOUND = b"text integer text blob"
ROW = (
    "SELECT rowid, typeof(originator_id)||' '||typeof(originator_version)||' '||typeof(topic)||' '||typeof(state),"
    " originator_id, originator_version, topic, state FROM stored_events NOT INDEXED"
)
LEAF = "SELECT number, position, stream, version, leaf FROM leaves ORDER BY position"
EMPTY_LEDGER = (
    "CREATE TABLE leaves (number, position, stream, version, leaf)",
    "CREATE TABLE checkpoints (tree_size, note)",
)
LOCK_TIMEOUT_SECONDS = 30
DAMAGE = (sqlite3.Error, UnicodeDecodeError)
"""Python cannot always decode what SQLite says about a damaged schema."""


class Row(NamedTuple):
    """A stored event. `leaf`: its RFC 6962 leaf hash at its position; `state` as found."""

    position: int
    stream: bytes
    version: int
    name: bytes
    state: bytes
    sound: bool

    def leaf(self, position: int) -> bytes:
        """The hash it would have at `position`: SHA-256 of 0x00 and five lines (see the ledger); zeros if unsound."""
        digest = hashlib.sha256(self.state).hexdigest().encode()
        lines = (b"%d" % position, self.stream, b"%d" % self.version, self.name, digest, b"")
        return hashlib.sha256(b"\x00" + b"\n".join(lines)).digest() if self.sound else bytes(32)


class Leaf(NamedTuple):
    """What the ledger recorded of an event."""

    number: int
    position: int
    stream: str
    version: int
    leaf: bytes


class EventFile:
    """A stored-events database in one consistent state. Raises `Unreadable` unless it is there and a database.

    `damaged`: SQLite could not read on; what it could still find was read position by position.
    """

    def __init__(self, path: Path) -> None:
        self._database = _open(path, "event store")
        self._database.text_factory = bytes
        self.damaged = False

    def findings(self) -> list[str]:
        """What SQLite itself finds wrong with the file; empty when nothing."""
        try:
            found = [row[0].decode(errors="replace") for row in self._database.execute("PRAGMA integrity_check(100)")]
        except DAMAGE as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def rows(self, last_known: int) -> Iterator[Row]:
        """In the order in which they lie; behind a damage those up to position `last_known`, as far as possible."""
        last = 0
        try:
            for values in self._database.execute(ROW):
                row = _row(values)
                yield row
                last = row.position
        except DAMAGE:
            self.damaged = True
        for position in range(last + 1, last_known + 1) if self.damaged else ():
            found = self._row_at(position)
            if found is not None:
                yield found

    def _row_at(self, position: int) -> Row | None:
        try:
            values = self._database.execute(f"{ROW} WHERE rowid=?", (position,)).fetchone()
        except DAMAGE:
            return None
        return None if values is None else _row(values)

    def highest_given(self) -> int:
        """The highest position that was ever given, as SQLite remembers it; 0 when it cannot tell."""
        try:
            found = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name='stored_events'").fetchone()
        except DAMAGE:
            return 0
        return found[0] if found and isinstance(found[0], int) else 0

    def __enter__(self) -> EventFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()


class LedgerFile:
    """The ledger's own record in one consistent state; empty when there is no such file.

    `damaged`: it could not be read to its end. Raises `Unreadable` for a file that is no database.
    """

    def __init__(self, path: Path) -> None:
        missing = not path.exists()
        self._database = sqlite3.connect(":memory:", isolation_level=None) if missing else _open(path, "ledger")
        self.damaged = False
        if missing:
            for statement in EMPTY_LEDGER:
                self._database.execute(statement)

    def leaves(self) -> Iterator[Leaf]:
        """In order of position."""
        try:
            for values in self._database.execute(LEAF):
                if tuple(map(type, values)) != (int, int, str, int, bytes):
                    self.damaged = True
                    continue
                yield Leaf(*values)
        except DAMAGE:
            self.damaged = True

    def last_position(self) -> int:
        """0 while there is none, or when it cannot be told."""
        found = self._values("SELECT MAX(position) FROM leaves")
        return found[0] if found and isinstance(found[0], int) else 0

    def notes(self) -> list[str]:
        return [str(note) for note in self._values("SELECT note FROM checkpoints ORDER BY tree_size")]

    def _values(self, statement: str) -> list[object]:
        try:
            return [row[0] for row in self._database.execute(statement)]
        except DAMAGE:
            self.damaged = True
            return []

    def __enter__(self) -> LedgerFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()


def _open(path: Path, what: str) -> sqlite3.Connection:
    """Read-only, inside one transaction: what others append meanwhile is not seen."""
    try:
        database = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, timeout=LOCK_TIMEOUT_SECONDS
        )
        try:
            database.execute("BEGIN")
            database.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
        except DAMAGE:
            database.close()
            raise
    except DAMAGE as error:
        raise Unreadable(what, str(path), str(error), "Restore a backup.") from error
    return database


def _row(values: tuple[int, bytes, bytes, int, bytes, bytes]) -> Row:
    position, types, stream, version, name, state = values
    if types == SOUND:
        return Row(position, stream, version, name, state, True)
    return Row(position, _bytes(stream), version if isinstance(version, int) else 0, _bytes(name), b"", False)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
