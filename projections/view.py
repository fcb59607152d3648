"""Views: one row for each key, folded from the events, in a file that can be deleted and is made again from them.

Rows and position move in one transaction, so an event counts once however often and by how many processes it is
delivered. What a view shows is a pure fold, `row before, event -> row after`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec
from eventsourcing.sqlite import SQLiteCursor

from domain.events import Recorded
from eventstore.store import EventStore
from projections.tables import Tables

R = TypeVar("R", bound=msgspec.Struct)

PAGE = 500


class Place(msgspec.Struct, frozen=True):
    """Which row an event belongs to: the one with this key, or the one that was given this value as its `link`."""

    by: Literal["key", "link"]
    value: str


class Filed(msgspec.Struct, frozen=True):
    """What a row can be found by, besides its key."""

    tenant: str
    state: str
    link: str = ""


class Shape(msgspec.Struct, Generic[R], frozen=True):
    """A view: its table, the type of its rows, where an event belongs, the fold, and what rows are filed under."""

    table: str
    row: type[R]
    place: Callable[[Recorded], Place | None]
    fold: Callable[[R | None, Recorded], R | None]
    filed: Callable[[R], Filed]

    def statements(self) -> tuple[str, ...]:
        return (
            f"CREATE TABLE {self.table} (key TEXT PRIMARY KEY, tenant TEXT NOT NULL, state TEXT NOT NULL,"
            " link TEXT NOT NULL, row BLOB NOT NULL) WITHOUT ROWID",
            f"CREATE INDEX {self.table}_tenant ON {self.table} (tenant, key)",
            f"CREATE INDEX {self.table}_state ON {self.table} (state, key)",
            f"CREATE INDEX {self.table}_link ON {self.table} (link)",
        )


class View(Generic[R]):
    """`path`: a file with the tables of `shape`."""

    def __init__(self, path: Path, shape: Shape[R]) -> None:
        self._tables = Tables(path, shape.table)
        self._shape = shape
        self._decoder = msgspec.msgpack.Decoder(shape.row)
        self._encoder = msgspec.msgpack.Encoder()

    def position(self) -> int:
        return self._tables.position()

    def catch_up(self, store: EventStore) -> int:
        """Takes in everything that is stored; the position then. A view that is ahead of its store begins again."""
        before = self.position()
        if before > store.last_position():
            self._forget(before)
            before = 0
        while page := store.follow(before, PAGE):
            self._take(before, page)
            before = self.position()
        return before

    def take(self, events: Sequence[Recorded]) -> None:
        """Takes in consecutive events, those it already has excepted."""
        before = self.position()
        new = [recorded for recorded in events if recorded.position > before]
        if new:
            self._take(before, new)

    def _take(self, before: int, events: Sequence[Recorded]) -> None:
        with self._tables.moving(before, events[-1].position) as cursor:
            if cursor is None:
                return
            changed: dict[str, R] = {}
            for recorded in events:
                self._fold(cursor, changed, recorded)
            for key, row in changed.items():
                filed = self._shape.filed(row)
                values = (key, filed.tenant, filed.state, filed.link, self._encoder.encode(row))
                cursor.execute(f"INSERT OR REPLACE INTO {self._shape.table} VALUES (?,?,?,?,?)", values)  # noqa: S608

    def _fold(self, cursor: SQLiteCursor, changed: dict[str, R], recorded: Recorded) -> None:
        """Into `changed`: the rows that this transaction has touched, ahead of those in the table."""
        place = self._shape.place(recorded)
        key = self._key(cursor, changed, place) if place is not None else None
        if key is None:
            return
        row = self._shape.fold(changed[key] if key in changed else self._stored(cursor, key), recorded)
        if row is not None:
            changed[key] = row

    def _key(self, cursor: SQLiteCursor, changed: dict[str, R], place: Place) -> str | None:
        if place.by == "key":
            return place.value
        for key, row in changed.items():
            if self._shape.filed(row).link == place.value:
                return key
        cursor.execute(f"SELECT key FROM {self._shape.table} WHERE link=?", (place.value,))  # noqa: S608
        found = cursor.fetchone()
        return None if found is None or found["key"] in changed else str(found["key"])

    def _stored(self, cursor: SQLiteCursor, key: str) -> R | None:
        cursor.execute(f"SELECT row FROM {self._shape.table} WHERE key=?", (key,))  # noqa: S608
        found = cursor.fetchone()
        return None if found is None else self._decoder.decode(found["row"])

    def _forget(self, before: int) -> None:
        with self._tables.moving(before, before + 1) as cursor:
            if cursor is not None:
                cursor.execute(f"DELETE FROM {self._shape.table}")  # noqa: S608
                cursor.execute("DELETE FROM tracking WHERE application_name=?", (self._shape.table,))

    def row(self, key: str) -> R | None:
        with self._tables.reading() as cursor:
            return self._stored(cursor, key)

    def rows(
        self, *, tenant: str | None = None, states: Sequence[str] = (), newest: bool = False, limit: int | None = None
    ) -> tuple[R, ...]:
        """In order of key, or the other way round (`newest`), at most `limit` if that is given."""
        conditions = ["tenant=?"] * (tenant is not None)
        if states:
            conditions.append(f"state IN ({','.join('?' * len(states))})")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        order = "DESC" if newest else "ASC"
        with self._tables.reading() as cursor:
            cursor.execute(
                f"SELECT row FROM {self._shape.table} {where} ORDER BY key {order} LIMIT ?",  # noqa: S608
                (*(() if tenant is None else (tenant,)), *states, -1 if limit is None else limit),
            )
            return tuple(self._decoder.decode(found["row"]) for found in cursor.fetchall())

    def close(self) -> None:
        self._tables.close()
