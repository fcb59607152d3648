"""The ledger: every stored event as a leaf of an RFC 6962 Merkle tree, whose roots are signed as checkpoints.

The data of a leaf is

    position \\n stream \\n version \\n stored name \\n SHA-256 of the state, in hex \\n

so it covers the sealed bytes: destroying a key never breaks a proof. Leaf hashes are kept in a table of their own, in
a file beside the event store, with a copy of every checkpoint. A checkpoint is also an event of the ledger stream, and
so a leaf itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from crypto.checkpoint import Checkpoint, LedgerKey, sign_checkpoint, verify_checkpoint
from crypto.merkle import Tree, leaf_hash
from domain.errors import CheckpointRejected, EventUnreadable, Unreadable, VersionConflict
from domain.events import CheckpointSigned
from domain.ids import LEDGER
from eventstore.mapper import Stored
from eventstore.store import EventStore
from projections.tables import Tables, make_file

FILE_SHAPE = 1
PAGE = 1_000
ATTEMPTS = 5
TABLES = (
    "CREATE TABLE leaves (number INTEGER PRIMARY KEY, position INTEGER NOT NULL UNIQUE, stream TEXT NOT NULL,"
    " version INTEGER NOT NULL, leaf BLOB NOT NULL)",
    "CREATE INDEX leaves_stream ON leaves (stream, version)",
    "CREATE TABLE checkpoints (tree_size INTEGER PRIMARY KEY, note TEXT NOT NULL)",
)


class Leaf(NamedTuple):
    """`number`: index in the tree, from 0. `leaf`: hash."""

    number: int
    position: int
    stream: str
    version: int
    leaf: bytes


def leaf_data(stored: Stored) -> bytes:
    digest = hashlib.sha256(stored.state).hexdigest()
    return f"{stored.position}\n{stored.stream}\n{stored.version}\n{stored.name}\n{digest}\n".encode()


class Ledger:
    """`path`: its file, made when it is missing. `origin`: the name of the log in its checkpoints.

    Raises `CheckpointRejected` when its leaves do not lead to the roots that were signed before, `Unreadable` when some
    of them are gone.
    """

    def __init__(self, store: EventStore, path: Path, key: LedgerKey, origin: str) -> None:
        make_file(path, TABLES, FILE_SHAPE)
        self._store = store
        self._key = key
        self._origin = origin
        self._path = path
        self._tables = Tables(path, "ledger")
        self._tree = Tree()
        self._last: Leaf | None = None
        self._load()

    @property
    def size(self) -> int:
        """Events in the tree."""
        return self._tree.size

    def root(self) -> bytes:
        return self._tree.root()

    def advance(self) -> int:
        """Takes in everything that is stored; the size of the tree then.

        Raises `EventUnreadable` when the last event that it took in is not what it was, or the next one does not open:
        nothing is built upon that.
        """
        while page := self._next_page():
            before = self.size
            self._take(page)
            if self.size == before:
                raise self._gone()
        return self.size

    def sign(self, *, at: datetime, actor: str, cause: str) -> Checkpoint | None:
        """Signs the tree as it is now and appends that as an event; None when only checkpoints came since the last."""
        for _ in range(ATTEMPTS):
            size, version = self.advance(), self._last_version()
            if not self._has_news():
                return None
            note = sign_checkpoint(self._origin, size, self.root(), self._key)
            event = CheckpointSigned(tree_size=size, root=self.root().hex(), note=note)
            try:
                self._store.append(LEDGER, version, [event], at=at, actor=actor, cause=cause)
            except VersionConflict:
                continue
            self.advance()
            return verify_checkpoint(note, self._key.public)
        raise VersionConflict(LEDGER, self._last_version())

    def notes(self) -> tuple[str, ...]:
        """The checkpoints, oldest first. The last one, kept elsewhere, is a witness against cutting off the tail."""
        with self._tables.reading() as cursor:
            cursor.execute("SELECT note FROM checkpoints ORDER BY tree_size")
            return tuple(row[0] for row in cursor.fetchall())

    def close(self) -> None:
        self._tables.close()

    def _next_page(self) -> tuple[Stored, ...]:
        """What comes after the last leaf, once that leaf is seen to be still there."""
        last = self._last
        if last is None:
            return self._store.stored(0, PAGE)
        page = self._store.stored(last.position - 1, PAGE)
        if not page or leaf_hash(leaf_data(page[0])) != last.leaf:
            raise EventUnreadable(last.stream, last.version, "", "it is not what the ledger recorded")
        return page[1:]

    def _take(self, page: Sequence[Stored]) -> None:
        """Leaves, checkpoints and position move together. Where another process was first, its leaves are loaded: so
        there are more afterwards, or the position speaks of leaves that are gone."""
        events = [self._store.open(stored).event for stored in page]
        notes = [self._note(event) for event in events if isinstance(event, CheckpointSigned)]
        with self._tables.moving(self._last.position if self._last else 0, page[-1].position) as cursor:
            if cursor is not None:
                for number, stored in enumerate(page, self.size):
                    row = (number, stored.position, stored.stream, stored.version, leaf_hash(leaf_data(stored)))
                    cursor.execute("INSERT INTO leaves VALUES (?,?,?,?,?)", row)
                for note in notes:
                    cursor.execute("INSERT OR IGNORE INTO checkpoints VALUES (?,?)", note)
        self._load()

    def _note(self, event: CheckpointSigned) -> tuple[int, str]:
        return verify_checkpoint(event.note, self._key.public).size, event.note

    def _load(self) -> None:
        """Takes the leaves of the table into the tree and compares its roots with those that were signed."""
        while True:
            with self._tables.reading() as cursor:
                cursor.execute("SELECT * FROM leaves WHERE number>=? ORDER BY number LIMIT ?", (self.size, PAGE))
                leaves = [Leaf(*row) for row in cursor.fetchall()]
                cursor.execute(
                    "SELECT tree_size, note FROM checkpoints WHERE tree_size>? AND tree_size<=?",
                    (self.size, self.size + len(leaves)),
                )
                notes = dict(cursor.fetchall())
            for leaf in leaves:
                if leaf.number != self.size:
                    raise self._gone()
                self._tree.append_hash(leaf.leaf)
                if self.size in notes:
                    self._compare(notes[self.size])
                self._last = leaf
            if len(leaves) < PAGE:
                return

    def _gone(self) -> Unreadable:
        remedy = (
            "Run `tenantry audit verify`, then remove the file and run `tenantry audit checkpoint`: it is made again."
        )
        return Unreadable("ledger", str(self._path), f"leaves after the first {self.size} are gone", remedy)

    def _compare(self, note: str) -> None:
        if verify_checkpoint(note, self._key.public).root != self.root():
            raise CheckpointRejected(f"the ledger does not lead to the root that was signed at size {self.size}")

    def _last_version(self) -> int:
        with self._tables.reading() as cursor:
            cursor.execute("SELECT MAX(version) FROM leaves WHERE stream=?", (LEDGER,))
            return cursor.fetchone()[0] or 0

    def _has_news(self) -> bool:
        with self._tables.reading() as cursor:
            cursor.execute(
                "SELECT EXISTS (SELECT 1 FROM leaves WHERE stream<>? AND number>="
                "(SELECT COALESCE(MAX(tree_size), 0) FROM checkpoints))",
                (LEDGER,),
            )
            return bool(cursor.fetchone()[0])
