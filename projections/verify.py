"""Verification of the ledger: everything recomputed from the stored bytes, by code that shares nothing with what wrote
them.

1. The root over the stored events is compared with every signed checkpoint: those in the ledger stream, the ledger's
   copies, and witnesses kept elsewhere. Events below a root that holds are proven.
2. Each event is compared with the leaf that the ledger recorded of it; what differs is named.
3. Events that no checkpoint covers yet are opened, when the event key is given: only its holder can have made them.

What cannot be seen without a witness: that the end was cut off the events and off the ledger's record, with the
checkpoints over it; and that whoever holds the event key has written another end, or everything, in its place.
With the ledger key he need not even cut off the checkpoints. A witness proves the events below it, and no later ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from crypto.checkpoint import Checkpoint, verify_checkpoint
from domain.errors import CheckpointRejected, EventUnreadable, Unreadable
from domain.events import CheckpointSigned
from domain.ids import LEDGER
from eventstore.mapper import SealedMapper, Stored
from projections.evidence import EventFile, Leaf, LedgerFile, Row

Kind = Literal["changed", "removed", "inserted", "moved", "checkpoint", "database", "missing"]

HASH_BYTES = 32
MAX_PROBLEMS = 1_000
MAX_UNMATCHED = 100_000
KEPT_SUBTREE = 1024
"""Roots of full subtrees of this many leaves and more are kept between checkpoints."""
CHECKPOINT_NAME = b"checkpoint-signed/1"
EXPLAINING: tuple[Kind, ...] = ("changed", "removed", "inserted", "moved")
"""Problems with events, because of which a root cannot hold."""

T = TypeVar("T")


class Problem(msgspec.Struct, frozen=True, order=True):
    """Which event is concerned. `position` 0, `stream` "" or `version` 0: not known.

    changed, removed, inserted: said of the event at that position. moved: an authentic event at another position than
    its own. checkpoint: its signature or root does not hold. database: SQLite cannot read the file there, or the
    ledger's own record was changed and the event was not. missing: the ledger has no record, or an emptied one, though
    there are events; or no copy of a checkpoint, though some were signed.
    """

    position: int
    kind: Kind
    stream: str
    version: int


class Verification(msgspec.Struct, frozen=True):
    """`events` that were read and `checkpoints` that hold. At most `MAX_PROBLEMS` problems are named.

    `uncovered`: events after the last checkpoint that holds, that checkpoint itself not counted.
    """

    ok: bool
    events: int
    checkpoints: int
    problems: tuple[Problem, ...]
    uncovered: int


class Note(msgspec.Struct, frozen=True):
    """A checkpoint and where it was found; position 0: in the ledger's copy, or it is a witness."""

    text: str
    position: int = 0
    version: int = 0


class Compared(msgspec.Struct):
    """The events against the ledger's leaves. `hashes`: the leaf hash of each event, in order, end to end.

    `rows` and `leaves` are those that have not their like at the same position. Rows come with their index.
    """

    hashes: bytearray
    rows: list[tuple[int, Row]]
    leaves: list[Leaf]
    checkpoints: list[tuple[int, Row]]

    @property
    def count(self) -> int:
        return len(self.hashes) // HASH_BYTES


def verify(
    events: Path, ledger: Path, public: bytes, *, event_key: bytes | None = None, witnesses: Sequence[str] = ()
) -> Verification:
    """`public`: the ledger's Ed25519 key, 32 bytes. `event_key`: also opens checkpoints and events not yet covered.

    The ledger is read before the events, so what is appended meanwhile does not look inserted or removed.
    """
    mapper = SealedMapper(event_key) if event_key else None
    try:
        with LedgerFile(ledger) as record, EventFile(events) as stored:
            return _verify(stored, record, public, mapper, witnesses)
    except Unreadable:
        return Verification(False, 0, 0, (Problem(0, "database", "", 0),), 0)


def _verify(
    stored: EventFile, record: LedgerFile, public: bytes, mapper: SealedMapper | None, witnesses: Sequence[str]
) -> Verification:
    last_leaf, copies = record.last_position(), record.notes()
    compared = compare(stored.rows(last_leaf), record.leaves())
    signed, rejected = _signed(_notes(compared, copies, mapper, witnesses), public)
    kept: dict[tuple[int, int], bytes] = {}
    broken = [
        (note, checkpoint)
        for note, checkpoint in signed
        if checkpoint.size > compared.count or root(compared.hashes, 0, checkpoint.size, kept) != checkpoint.root
    ]
    holding = {checkpoint.size for note, checkpoint in signed if (note, checkpoint) not in broken}
    proven = max(holding, default=0)

    problems = {Problem(note.position, "checkpoint", LEDGER, note.version) for note in rejected}
    if stored.findings() or stored.damaged:
        problems.add(Problem(0, "database", "", 0))
    if record.damaged:
        problems.add(Problem(0, "database", LEDGER, 0))
        last_leaf = 0
    elif compared.count and (not last_leaf or (not copies and _signed_within(compared, last_leaf))):
        problems.add(Problem(0, "missing", LEDGER, 0))
    differences = set(classify(compared, proven, last_leaf, absent="database" if stored.damaged else "removed"))
    differences |= set(_uncovered(stored, mapper, proven, last_leaf, {p.position for p in differences}))
    if not any(problem.kind in EXPLAINING for problem in differences):
        problems |= {Problem(note.position, "checkpoint", LEDGER, note.version) for note, _ in broken}
    problems |= differences
    named = tuple(sorted(problems)[:MAX_PROBLEMS])
    uncovered = compared.count - proven - sum(index >= proven for index, _ in compared.checkpoints)
    return Verification(not problems, compared.count, len(holding), named, uncovered)


def _signed_within(compared: Compared, last_leaf: int) -> bool:
    """Whether the ledger took in an event of a checkpoint: a copy of that it kept in the same moment."""
    return any(row.position <= last_leaf for _, row in compared.checkpoints)


def compare(rows: Iterable[Row], leaves: Iterable[Leaf]) -> Compared:
    """Walks both in order of position."""
    found = Compared(bytearray(), [], [], [])
    left = iter(leaves)
    leaf = next(left, None)
    for index, row in enumerate(rows):
        hashed = row.leaf(row.position)
        found.hashes += hashed
        if row.name == CHECKPOINT_NAME and row.sound:
            found.checkpoints.append((index, row))
        while leaf is not None and leaf.position < row.position:
            _keep(found.leaves, leaf)
            leaf = next(left, None)
        if leaf is not None and leaf.position == row.position:
            if leaf.leaf != hashed:
                _keep(found.leaves, leaf)
                _keep(found.rows, (index, row))
            leaf = next(left, None)
        else:
            _keep(found.rows, (index, row))
    while leaf is not None:
        _keep(found.leaves, leaf)
        leaf = next(left, None)
    return found


def classify(compared: Compared, proven: int, last_leaf: int, *, absent: Kind) -> Iterator[Problem]:
    """Names what differs. Where the events are proven, it is the ledger's record that was changed.

    A row that equals the leaf of another position has moved from there; one that shares a position with a leaf has
    changed; a leaf alone was removed (`absent`); a row alone was inserted, unless the ledger is not that far yet.
    """
    by_name = {(leaf.stream.encode(), leaf.version): leaf for leaf in compared.leaves if leaf.number >= proven}
    at = {leaf.position: leaf for leaf in by_name.values()}
    for leaf in compared.leaves:
        if leaf.number < proven:
            yield Problem(leaf.position, "database", leaf.stream, leaf.version)
    alone: list[Row] = []
    for index, row in compared.rows:
        own = by_name.get((row.stream, row.version))
        if index < proven:
            if row.position <= last_leaf:
                yield Problem(row.position, "database", _text(row.stream), row.version)
        elif own is not None and row.sound and row.leaf(own.position) == own.leaf:
            at.pop(own.position, None)
            if own.position != row.position:
                yield Problem(row.position, "moved", own.stream, own.version)
        else:
            alone.append(row)
    for row in alone:
        there = at.pop(row.position, None)
        if there is not None:
            yield Problem(row.position, "changed", there.stream, there.version)
        elif row.position <= last_leaf:
            yield Problem(row.position, "inserted", _text(row.stream), row.version)
    for gone in at.values():
        yield Problem(gone.position, absent, gone.stream, gone.version)


def _uncovered(
    stored: EventFile, mapper: SealedMapper | None, proven: int, last_leaf: int, known: set[int]
) -> Iterator[Problem]:
    """Events past the last checkpoint that holds: opened when there is a key, and past the ledger without a gap."""
    last = 0
    for index, row in enumerate(stored.rows(last_leaf)):
        if index >= proven and row.position not in known:
            if row.position > max(last_leaf, last) + 1:
                yield Problem(max(last_leaf, last) + 1, "removed", "", 0)
            if not row.sound:
                yield Problem(row.position, "changed", _text(row.stream), row.version)
            elif mapper is not None and not _opens(mapper, row):
                kind: Kind = "changed" if mapper.sealed(row.state) else "inserted"
                yield Problem(row.position, kind, _text(row.stream), row.version)
        last = max(last, row.position)
    if stored.highest_given() > max(last, last_leaf):
        yield Problem(max(last, last_leaf) + 1, "removed", "", 0)


def _opens(mapper: SealedMapper, row: Row) -> bool:
    try:
        mapper.open(Stored(row.position, _text(row.stream), row.version, _text(row.name), row.state))
    except EventUnreadable:
        return False
    return True


def _notes(
    compared: Compared, copies: Sequence[str], mapper: SealedMapper | None, witnesses: Sequence[str]
) -> Iterable[Note]:
    """Every checkpoint once. Those events that do not open are named elsewhere."""
    notes = {text: Note(text) for text in (*copies, *witnesses)}
    for _, row in compared.checkpoints:
        if mapper is None or not _opens(mapper, row):
            continue
        event = mapper.open(Stored(row.position, _text(row.stream), row.version, _text(row.name), row.state)).event
        if isinstance(event, CheckpointSigned):
            notes[event.note] = Note(event.note, row.position, row.version)
    return notes.values()


def _signed(notes: Iterable[Note], public: bytes) -> tuple[list[tuple[Note, Checkpoint]], list[Note]]:
    """Those with a signature that holds, and the others."""
    signed: list[tuple[Note, Checkpoint]] = []
    rejected: list[Note] = []
    for note in notes:
        try:
            signed.append((note, verify_checkpoint(note.text, public)))
        except CheckpointRejected:
            rejected.append(note)
    return signed, rejected


def root(leaves: bytes | bytearray, start: int, count: int, kept: dict[tuple[int, int], bytes]) -> bytes:
    """MTH of RFC 6962 §2.1 over `count` leaf hashes from `start`, as it is defined there."""
    if count == 0:
        return hashlib.sha256(b"").digest()
    if count == 1:
        return bytes(leaves[start * HASH_BYTES : (start + 1) * HASH_BYTES])
    if (start, count) in kept:
        return kept[start, count]
    k = 1
    while k * 2 < count:
        k *= 2
    left, right = root(leaves, start, k, kept), root(leaves, start + k, count - k, kept)
    node = hashlib.sha256(b"\x01" + left + right).digest()
    if count >= KEPT_SUBTREE and count & (count - 1) == 0:
        kept[start, count] = node
    return node


def _keep(kept: list[T], one: T) -> None:
    if len(kept) < MAX_UNMATCHED:
        kept.append(one)


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")
