"""The event store: every event of every stream, appended at an expected version, read by stream or by position.

`sqlite:///absolute/path` is a file that several processes append to at once (WAL, synchronous FULL: what was
acknowledged survives a kill); `memory:` lasts as long as the object. Methods may be called from any thread.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
from eventsourcing.persistence import DatabaseError, IntegrityError, Notification, PersistenceError, StoredEvent
from eventsourcing.sqlite import SQLiteDatastore

from domain.errors import Malformed, StorageFull, StoreUnavailable, TenantryError, Unreadable, VersionConflict
from domain.events import AnyEvent, Recorded, stored_name
from domain.ids import Stream
from domain.settings import without_secrets
from eventstore.identity import FileIdentity
from eventstore.mapper import SealedMapper, Stored
from eventstore.recorder import EventRecorder, MemoryEventRecorder, SQLiteEventRecorder

MAX_APPENDED = 10_000
LOCK_TIMEOUT_SECONDS = 30
PAGE = 1_000

_STREAM = re.compile(r"[a-z][a-z-]{0,30}:[A-Za-z0-9:._-]{1,200}")
_FULL = (sqlite3.SQLITE_FULL,)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_T = TypeVar("_T")


class Append(msgspec.Struct, frozen=True):
    """`events` for `stream`, whose last known version is `expected` (0: it is new)."""

    stream: Stream
    expected: int
    events: Sequence[AnyEvent]


class EventStore:
    def __init__(
        self,
        recorder: EventRecorder,
        mapper: SealedMapper,
        place: str,
        close: Callable[[], None],
        check: Callable[[], None],
    ) -> None:
        """`check`: raises when what was done just now was not done to the file at `place`."""
        self._recorder = recorder
        self._mapper = mapper
        self._place = place
        self._close = close
        self._check = check

    def append(
        self, stream: Stream, expected: int, events: Sequence[AnyEvent], *, at: datetime, actor: str, cause: str
    ) -> tuple[Recorded, ...]:
        """See `append_all`."""
        return self.append_all((Append(stream, expected, events),), at=at, actor=actor, cause=cause)

    def append_all(self, appends: Sequence[Append], *, at: datetime, actor: str, cause: str) -> tuple[Recorded, ...]:
        """Appends everything in one transaction, or nothing and raises `VersionConflict`.

        The very same append made again, because its answer was lost, is a success. Raises `StoreUnavailable` or
        `StorageFull` when nothing is known to be stored.
        """
        placed = _placed(appends)
        stored = [
            StoredEvent(
                originator_id=stream,
                originator_version=version,
                topic=stored_name(event),
                state=self._mapper.seal(stream, version, event, at=at, actor=actor, cause=cause),
            )
            for stream, version, event in placed
        ]
        if not stored:
            return ()
        try:
            with self._storing():
                positions = self._recorder.insert_events(stored)
        except IntegrityError:
            return self._ours(appends, at=at, actor=actor, cause=cause)
        return tuple(
            Recorded(stream=stream, version=version, position=position, at=at, actor=actor, cause=cause, event=event)
            for (stream, version, event), position in zip(placed, positions or (), strict=True)
        )

    def _ours(self, appends: Sequence[Append], *, at: datetime, actor: str, cause: str) -> tuple[Recorded, ...]:
        """The events of `appends` as they are stored already; raises `VersionConflict` when others stand there."""
        found: list[Recorded] = []
        unlike: list[Append] = []
        for append in appends:
            there = self._stream(append.stream, append.expected, len(append.events))
            ours = [(append.expected + n, at, actor, cause, event) for n, event in enumerate(append.events, 1)]
            if [(r.version, r.at, r.actor, r.cause, r.event) for r in there] != ours:
                if there or not self._has(append.stream, append.expected):
                    raise VersionConflict(append.stream, append.expected)
                unlike.append(append)
            found.extend(there)
        if unlike:
            raise VersionConflict(unlike[0].stream, unlike[0].expected)
        return tuple(found)

    def _has(self, stream: Stream, version: int) -> bool:
        return version == 0 or bool(self._stream(stream, version - 1, 1))

    def read(self, stream: Stream, after: int = 0) -> tuple[Recorded, ...]:
        """The events of `stream` past version `after`. Raises `EventUnreadable`."""
        events: list[Recorded] = []
        while page := self._stream(stream, after, PAGE):
            events.extend(page)
            after = page[-1].version
            if len(page) < PAGE:
                break
        return tuple(events)

    def read_all(self, after: Mapping[Stream, int]) -> dict[Stream, list[Recorded]]:
        """The events of each stream past its version, as they were at one moment. Raises `EventUnreadable`."""
        with self._storing():
            page = self._recorder.select_streams(after, PAGE)
        events: dict[Stream, list[Recorded]] = {stream: [] for stream in after}
        for recorded in map(self._mapper.open, map(_stored, page)):
            events[recorded.stream].append(recorded)
        for stream, found in events.items():
            if len(found) == PAGE:
                events[stream] += self.read(stream, found[-1].version)
        return events

    def _stream(self, stream: Stream, after: int, limit: int) -> list[Recorded]:
        with self._storing():
            page = self._recorder.select_streams({stream: after}, limit)
        return [self._mapper.open(_stored(notification)) for notification in page]

    def follow(self, after: int, limit: int = 500) -> tuple[Recorded, ...]:
        """The next events past position `after`, of all streams, at most `limit`. Raises `EventUnreadable`."""
        return tuple(self._mapper.open(stored) for stored in self.stored(after, limit))

    def stored(self, after: int, limit: int) -> tuple[Stored, ...]:
        """The same as they are stored: sealed."""
        with self._storing():
            page = self._recorder.select_notifications(after, limit, inclusive_of_start=False)
        return tuple(_stored(notification) for notification in page)

    def open(self, stored: Stored) -> Recorded:
        """Raises `EventUnreadable`."""
        return self._mapper.open(stored)

    def last_position(self) -> int:
        """0 while nothing is stored."""
        with self._storing():
            return self._recorder.max_notification_id() or 0

    @contextmanager
    def _storing(self) -> Iterator[None]:
        with _storing(self._place):
            yield
        self._check()

    def close(self) -> None:
        self._close()

    def __enter__(self) -> EventStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_event_store(url: str, key: bytes) -> EventStore:
    """Opens what `create_event_store` made (`memory:`: a new one). `key`: the event key, 32 bytes.

    Raises `Unreadable` when it is not there or not a database.
    """
    mapper = SealedMapper(key)
    path = sqlite_path(url)
    if path is None:
        return EventStore(MemoryEventRecorder(), mapper, "memory", lambda: None, lambda: None)
    if not path.is_file():
        raise Unreadable("event store", path, "there is no such file", "Make it with `tenantry init`.")
    identity = FileIdentity(path)
    datastore = sqlite_datastore(path)
    store = EventStore(SQLiteEventRecorder(datastore), mapper, str(path), datastore.close, identity.check)
    try:
        store.last_position()
    except TenantryError:
        datastore.close()
        raise
    return store


def create_event_store(url: str) -> None:
    """Makes the table, once: everybody else opens it. Doing it again changes nothing."""
    path = sqlite_path(url)
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    datastore = sqlite_datastore(path)
    try:
        with _storing(str(path)):
            SQLiteEventRecorder(datastore).create_table()
    finally:
        datastore.close()


def sqlite_path(url: str) -> Path | None:
    """The file of `sqlite:///absolute/path`, taken literally; None for `memory:`. Raises `Malformed` for others."""
    if url == "memory:":
        return None
    path = Path("/" + url.removeprefix("sqlite://").lstrip("/"))
    if not url.startswith("sqlite:///") or path.name in ("", ".."):
        raise Malformed("event store URL", without_secrets(url), "sqlite:///absolute/path or memory:")
    return path


def sqlite_datastore(path: Path) -> SQLiteDatastore:
    """One connection to an existing file, so that a mistyped path never makes an empty database."""
    return SQLiteDatastore(
        f"file:{quote(str(path))}?mode=rw",
        lock_timeout=LOCK_TIMEOUT_SECONDS,
        pool_size=1,
        max_overflow=0,
        pool_timeout=2 * LOCK_TIMEOUT_SECONDS,
        originator_id_type="text",
    )


def _placed(appends: Sequence[Append]) -> list[tuple[Stream, int, AnyEvent]]:
    """Each event with its stream and version. Raises `Malformed` for what cannot be stored."""
    if sum(len(append.events) for append in appends) > MAX_APPENDED:
        raise Malformed("append", "too many events", f"at most {MAX_APPENDED} in one transaction")
    for append in appends:
        if not _STREAM.fullmatch(append.stream):
            raise Malformed("stream", append.stream, "category:key")
        if append.expected < 0:
            raise Malformed("expected version", append.expected, "0 or more")
    return [
        (append.stream, version, event)
        for append in appends
        for version, event in enumerate(append.events, append.expected + 1)
    ]


def _stored(notification: Notification) -> Stored:
    return Stored(
        notification.id,
        str(notification.originator_id),
        notification.originator_version,
        notification.topic,
        notification.state,
    )


@contextmanager
def _storing(place: str) -> Iterator[None]:
    """Turns the database's errors into ours; `IntegrityError` passes, it is for the caller to judge."""
    try:
        yield
    except IntegrityError:
        raise
    except (PersistenceError, sqlite3.Error) as error:
        raise storage_error(place, error) from error


def storage_error(place: str, error: PersistenceError | sqlite3.Error, what: str = "event store") -> TenantryError:
    """What a database error means: full, damaged, or not answering now."""
    source = error.__cause__ if isinstance(error, PersistenceError) else error
    code = getattr(source, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _FULL:
        return StorageFull(place, str(error))
    if (code is not None and code & 0xFF in _DAMAGED) or type(error) is DatabaseError:
        return Unreadable(what, place, str(error), "Run `tenantry audit verify`, then restore a backup.")
    return StoreUnavailable(what, str(error))
