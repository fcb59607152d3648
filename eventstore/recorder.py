"""The eventsourcing library's recorders, with what ours adds: a position that is never given twice, streams without
gaps, and the stored events of a stream together with their positions.

The SQLite recorder of the library numbers events by the implicit rowid, which may be used again after a deletion; here
the column is declared `INTEGER PRIMARY KEY AUTOINCREMENT`. It is called `rowid` because that is what the library's own
statements read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eventsourcing.persistence import IntegrityError, Notification, StoredEvent
from eventsourcing.popo import POPOApplicationRecorder
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteCursor, SQLiteDatastore

from domain.ids import Stream

TABLE = "stored_events"


class EventRecorder(Protocol):
    """Appends and reads stored events. `insert_events` is one transaction: all of them or `IntegrityError`."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """The positions, in order."""

    def select_notifications(
        self, start: int | None, limit: int, *, inclusive_of_start: bool = True
    ) -> Sequence[Notification]: ...

    def select_streams(self, after: Mapping[Stream, int], limit: int) -> list[Notification]:
        """The events of each stream past its version, in order of version, at most `limit` of each."""

    def max_notification_id(self) -> int | None: ...


def first_versions(stored_events: Sequence[StoredEvent]) -> dict[str, int]:
    """The lowest version of each stream among `stored_events`."""
    lowest: dict[str, int] = {}
    for stored in stored_events:
        stream = str(stored.originator_id)
        lowest[stream] = min(stored.originator_version, lowest.get(stream, stored.originator_version))
    return lowest


def _gap(stream: str, version: int) -> IntegrityError:
    return IntegrityError(f"stream {stream} does not have version {version - 1}")


class SQLiteEventRecorder(SQLiteApplicationRecorder):
    def __init__(self, datastore: SQLiteDatastore) -> None:
        super().__init__(datastore, TABLE)
        self.insert_events_statement = (
            f"INSERT INTO {TABLE} (originator_id, originator_version, topic, state) VALUES (?,?,?,?)"  # noqa: S608
        )

    def construct_create_table_statements(self) -> list[str]:
        return [
            f"CREATE TABLE IF NOT EXISTS {TABLE} ("
            "rowid INTEGER PRIMARY KEY AUTOINCREMENT, "
            "originator_id TEXT NOT NULL, "
            "originator_version INTEGER NOT NULL, "
            "topic TEXT NOT NULL, "
            "state BLOB NOT NULL, "
            "UNIQUE (originator_id, originator_version))"
        ]

    def _insert_events(self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """Inserts first and looks for the predecessors afterwards: a transaction that begins by reading may not
        become a writing one once another process has written."""
        positions = super()._insert_events(c, stored_events)
        for stream, version in first_versions(stored_events).items():
            c.execute(
                f"SELECT 1 FROM {TABLE} WHERE originator_id=? AND originator_version=?",  # noqa: S608
                (stream, version - 1),
            )
            if version > 1 and c.fetchone() is None:
                raise _gap(stream, version)
        return positions

    def select_streams(self, after: Mapping[Stream, int], limit: int) -> list[Notification]:
        found: list[Notification] = []
        with self.datastore.transaction(commit=False) as c:
            for stream, version in after.items():
                c.execute(
                    f"SELECT rowid, originator_version, topic, state FROM {TABLE} "  # noqa: S608
                    "WHERE originator_id=? AND originator_version>? ORDER BY originator_version LIMIT ?",
                    (stream, version, limit),
                )
                found += [
                    Notification(id=row[0], originator_id=stream, originator_version=row[1], topic=row[2], state=row[3])
                    for row in c.fetchall()
                ]
        return found


class MemoryEventRecorder(POPOApplicationRecorder):
    def _assert_uniqueness(self, stored_events: Sequence[StoredEvent], **_: Any) -> None:
        super()._assert_uniqueness(stored_events)
        for stream, version in first_versions(stored_events).items():
            if version > 1 and version - 1 not in self._stored_events_index[stream]:
                raise _gap(stream, version)

    def select_streams(self, after: Mapping[Stream, int], limit: int) -> list[Notification]:
        with self._database_lock:
            places = [place for stream, version in after.items() for place in self._places(stream, version, limit)]
            stored = [(place + 1, self._stored_events[place]) for place in places]
        return [
            Notification(
                id=position,
                originator_id=event.originator_id,
                originator_version=event.originator_version,
                topic=event.topic,
                state=event.state,
            )
            for position, event in stored
        ]

    def _places(self, stream: Stream, after: int, limit: int) -> list[int]:
        versions = self._stored_events_index.get(stream, {})
        return [place for version, place in versions.items() if version > after][:limit]
