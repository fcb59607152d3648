"""The rows of a dataset as they are, or as they were at a time: the fold of its batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from hashlib import sha256

from crypto.batch import decode_batch
from crypto.datakey import DataKey
from domain.events import Recorded
from domain.ids import Dataset, TenantId, key_names
from eventstore.batches import BatchStore
from query.merge import DatasetShape, Kept, Key, Layer, Row, change, key_of, lay_over, put
from query.passes import Attempt, CountedBatch, Pass, fold_batches, showing

__all__ = [
    "DatasetShape",
    "Pass",
    "Point",
    "Row",
    "fold_batches",
    "items_of",
    "known_at",
    "later",
    "rows_of",
    "showing",
]


Point = datetime | int
"""A time, or a position in the whole ledger."""


def known_at(events: Sequence[Recorded], as_of: Point | None) -> Sequence[Recorded]:
    """The events of a stream that had been recorded at a point: those before the first later one."""
    for place, recorded in enumerate(events):
        if later(recorded, as_of):
            return events[:place]
    return events


def later(recorded: Recorded, as_of: Point | None) -> bool:
    """None: nothing is later."""
    match as_of:
        case None:
            return False
        case int():
            return recorded.position > as_of
        case _:
            return recorded.at > as_of


async def rows_of(  # noqa: PLR0917 - what names a dataset's rows is always given together
    passes: Sequence[Pass],
    batches: BatchStore,
    tenant: TenantId,
    dataset: Dataset,
    data_key: DataKey,
    shape: DatasetShape,
) -> AsyncIterator[Row]:
    """The rows that the dataset has after these passes, in no promised order. Where they are needed there may be no
    event store.

    Raises what the batch store raises, and `SealBroken` for a batch that is not the one recorded or not of this key.
    """
    opened = _Batches(batches, tenant, dataset, data_key)
    if shape.mode == "window":
        async for row in _appended(passes, opened, shape):
            yield row
        return
    for kept in (await _folded(passes, opened, shape)).values():
        if kept is not None:
            yield kept.row()


async def items_of(  # noqa: PLR0917 - as rows_of
    passes: Sequence[Pass],
    batches: BatchStore,
    tenant: TenantId,
    dataset: Dataset,
    data_key: DataKey,
    shape: DatasetShape,
    name: str,
) -> list[str]:
    """The present values of property `name`, sorted: the items of a per-item dataset."""
    find = key_of((name,))
    found: set[str] = set()
    async for row in rows_of(passes, batches, tenant, dataset, data_key, shape):
        key = find(row.raw)
        if isinstance(key, str):
            found.add(key)
    return sorted(found)


class _Batches:
    """Opens the batches of one dataset."""

    def __init__(self, store: BatchStore, tenant: TenantId, dataset: Dataset, data_key: DataKey) -> None:
        self._store = store
        self._tenant = tenant
        self._dataset = dataset
        self._data_key = data_key

    async def open(self, batch: CountedBatch) -> list[bytes]:
        sealed = await self._store.get(batch.key)
        return await asyncio.to_thread(decode_batch, sealed, self._data_key, self._tenant, self._dataset, batch.digest)

    async def each(self, batches: Sequence[CountedBatch]) -> AsyncIterator[tuple[CountedBatch, list[bytes]]]:
        """The next batch is fetched and opened while the caller works on this one."""
        ahead = asyncio.ensure_future(self.open(batches[0])) if batches else None
        try:
            for place, batch in enumerate(batches):
                rows = await ahead if ahead else []
                following = batches[place + 1 : place + 2]
                ahead = asyncio.ensure_future(self.open(following[0])) if following else None
                yield batch, rows
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)


async def _folded(passes: Sequence[Pass], opened: _Batches, shape: DatasetShape) -> Layer:
    known: Layer = {}
    for one in showing(passes):
        if one.replaces:
            known = await _seen(one.attempts[-1], opened, shape, {})
            continue
        for attempt in one.attempts:
            if attempt.whole:
                lay_over(known, await _seen(attempt, opened, shape, {}))
            else:
                await _seen(attempt, opened, shape, known)
    return known


async def _seen(attempt: Attempt, opened: _Batches, shape: DatasetShape, layer: Layer) -> Layer:
    """The layer after the batches of one attempt."""
    apply = change if "delta" in (attempt.mode, shape.mode) else put
    find = key_of(key_names(shape.key))
    async for batch, rows in opened.each(attempt.batches):
        for raw in rows:
            apply(layer, find(raw), Kept(raw, batch.at, batch.run))
    return layer


async def _appended(passes: Sequence[Pass], opened: _Batches, shape: DatasetShape) -> AsyncIterator[Row]:
    """A log: what was seen once stays, windows overlap, and the latest reading of a row counts.

    Reads backwards and keeps digests of keys only, so a log of any length streams.
    """
    met: set[bytes] = set()
    find = key_of(key_names(shape.key))
    newest_first = [batch for one in passes for attempt in one.attempts for batch in attempt.batches][::-1]
    async for batch, rows in opened.each(newest_first):
        for raw in reversed(rows):
            mark = _mark(find(raw))
            if mark not in met:
                met.add(mark)
                yield Row(raw, batch.at, batch.run)


def _mark(key: Key) -> bytes:
    match key:
        case bytes():
            text = b"r" + key
        case str():
            text = b"k" + key.encode("utf-8", "surrogatepass")
        case _:
            text = b"p" + b"\x00".join(part.encode("utf-8", "surrogatepass") for part in key)
    return sha256(text).digest()[:16]
