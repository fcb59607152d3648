"""The collected rows of many tenants as tables: SQL over them, an overview of them, and exports.

Dataset `entra.users` is table `entra_users`. A table is filled when a statement names it, with the rows of all tenants
at one time; a tenant whose rows cannot be read is named in `missing`, never left out in silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import msgspec

from crypto.datakey import DataKey
from domain import ids
from domain.errors import NotAllowed, PermanentError
from domain.ids import Dataset, TenantId, collection_stream
from eventstore.batches import BatchStore
from eventstore.store import EventStore
from query import export as exports
from query.duck import Filling, Sourced, chunks, connect, create_empty, perform
from query.export import Format
from query.merge import DatasetShape
from query.passes import Pass, fold_batches
from query.state import Point, known_at, rows_of
from query.statement import examine, failed
from query.structure import unique

MEMORY_BYTES = 2 << 30
MAX_RESULT_ROWS = 1_000_000


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that are not in an answer. `why` is a sentence."""

    tenant: TenantId
    dataset: Dataset
    why: str


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """The datasets that a tenant is to have rows of. `hindrance`: why its last run brought none, as a sentence."""

    datasets: frozenset[Dataset]
    hindrance: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`rows`: values in the order of `columns`, whose names are told apart."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    missing: tuple[Missing, ...] = ()

    def objects(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    rows: int
    missing: tuple[Missing, ...] = ()


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset of one tenant. `state` is that of the last pass, `last_complete` when a complete one ended.

    `rows`: how many the table has; None when that is not known without reading them.
    """

    tenant: TenantId
    dataset: Dataset
    table: str
    state: Literal["never", "running", "complete", "truncated", "not-possible"]
    reason: str = ""
    last_complete: datetime | None = None
    rows: int | None = None


class Tables:
    """`data_key_of` may raise a `PermanentError`: the tenant's rows are then missing. Asked once for each tenant.

    `shapes`: the datasets there are. `tenants`: those that are asked, and what each is expected to have: of that
    nothing is left out in silence. `memory_bytes` bounds DuckDB, which keeps every row it is asked about in memory.
    """

    def __init__(
        self,
        store: EventStore,
        batches: BatchStore,
        data_key_of: Callable[[TenantId], DataKey],
        shapes: Mapping[Dataset, DatasetShape],
        tenants: Mapping[TenantId, Expected],
        *,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._store = store
        self._batches = batches
        self._data_key_of = data_key_of
        self._shapes = dict(shapes)
        self._datasets = {table_of(name): name for name in shapes}
        self._tenants = dict(tenants)
        self._memory_bytes = memory_bytes
        self._keys: dict[TenantId, DataKey | PermanentError] = {}

    async def sql(self, statement: str, as_of: Point | None = None) -> Result:
        """Runs one reading statement. Raises `Malformed`, `Unknown` (table) or `NotAllowed` (the rest of SQL)."""
        missing: list[Missing] = []
        connection = connect(self._memory_bytes)
        try:
            wanted = examine(connection, statement, self._datasets)
            for table in wanted.tables:
                await self._fill(connection, table, as_of, missing)
            if wanted.overview:
                for table in self._datasets.keys() - set(wanted.tables):
                    create_empty(connection, table, self._shapes[self._datasets[table]].columns)
            connection.execute("DROP SCHEMA staging CASCADE")
            columns, rows = await perform(connection, _fetch, connection, statement)
        except duckdb.Error as error:
            raise failed(error, self._datasets, self._memory_bytes) from None
        finally:
            connection.close()
        return Result(columns=columns, rows=rows, missing=tuple(missing))

    async def export(
        self, dataset: str, format: Format, path: Path, as_of: Point | None = None, *, overwrite: bool = False
    ) -> Exported:
        """Writes the rows of one dataset to `path`, readable by its owner only: whole, or not at all.

        Raises `Unknown` (dataset), `Malformed` (format), `StorageFull`, or `NotAllowed` (it cannot be written there, or
        there is a file already and no `overwrite`).
        """
        name = ids.known_dataset(dataset, self._shapes)
        missing: list[Missing] = []
        rows = chunks(self._rows(name, as_of, missing))
        table = table_of(name)
        try:
            count = await exports.write(
                rows,
                path,
                format,
                table=table,
                declared=self._shapes[name].columns,
                memory_bytes=self._memory_bytes,
                overwrite=overwrite,
            )
        except duckdb.Error as error:
            raise failed(error, self._datasets, self._memory_bytes) from None
        return Exported(path=str(path), rows=count, missing=tuple(missing))

    async def datasets(self, *, count: bool = False, as_of: Point | None = None) -> list[Overview]:
        """Every dataset of every tenant. `count`: reads the rows where events alone do not tell their number."""
        return [await self._overview(tenant, name, count, as_of) for tenant in self._tenants for name in self._shapes]

    async def _overview(self, tenant: TenantId, name: Dataset, count: bool, as_of: Point | None) -> Overview:
        passes = self._passes(tenant, name, as_of)
        rows = _rows_known(passes, self._shapes[name])
        if rows is None and count:
            missing: list[Missing] = []
            number = sum([1 async for _ in self._rows_of(tenant, name, as_of, missing)])
            rows = None if missing else number
        complete = [one.ended for one in passes if one.complete]
        return Overview(
            tenant=tenant,
            dataset=name,
            table=table_of(name),
            state=passes[-1].state if passes else "never",
            reason=passes[-1].reason if passes else "",
            last_complete=complete[-1] if complete else None,
            rows=rows,
        )

    async def _fill(
        self, connection: duckdb.DuckDBPyConnection, table: str, as_of: Point | None, missing: list[Missing]
    ) -> None:
        name = self._datasets[table]
        filling = Filling(connection, table)
        async for chunk in chunks(self._rows(name, as_of, missing)):
            await perform(connection, filling.add, chunk)
        await perform(connection, filling.finish, self._shapes[name].columns)

    async def _rows(self, name: Dataset, as_of: Point | None, missing: list[Missing]) -> AsyncIterator[Sourced]:
        for tenant in self._tenants:
            async for sourced in self._rows_of(tenant, name, as_of, missing):
                yield sourced
            if any((one.tenant, one.dataset) == (tenant, name) for one in missing):
                continue
            if why := self._gap(tenant, name, as_of):
                missing.append(Missing(tenant=tenant, dataset=name, why=why))

    async def _rows_of(
        self, tenant: TenantId, name: Dataset, as_of: Point | None, missing: list[Missing]
    ) -> AsyncIterator[Sourced]:
        """A tenant of which nothing was collected needs no key. What fails for good is told in `missing`."""
        try:
            passes = self._passes(tenant, name, as_of)
            if not any(attempt.batches for one in passes for attempt in one.attempts):
                return
            key = await self._key(tenant)
            async for row in rows_of(passes, self._batches, tenant, name, key, self._shapes[name]):
                yield tenant, row
        except PermanentError as error:
            missing.append(Missing(tenant=tenant, dataset=name, why=str(error)))

    def _gap(self, tenant: TenantId, name: Dataset, as_of: Point | None) -> str:
        """Why what was collected is not all there is, as a sentence; empty when it is."""
        passes = self._passes(tenant, name, as_of)
        expected = self._tenants[tenant]
        if any(one.complete for one in passes) or not (passes or name in expected.datasets):
            return ""
        if not passes and as_of is not None:
            return "It was not collected by then."
        if not passes:
            return f"It was never collected. {expected.hindrance}".strip()
        if passes[-1].state == "running":
            return "Its first collection has not ended."
        return f"No collection of it was complete, the last is {passes[-1].state}: {passes[-1].reason}."

    async def _key(self, tenant: TenantId) -> DataKey:
        if tenant not in self._keys:
            try:
                self._keys[tenant] = await asyncio.to_thread(self._data_key_of, tenant)
            except PermanentError as error:
                self._keys[tenant] = error
        known = self._keys[tenant]
        if isinstance(known, PermanentError):
            raise known
        return known

    def _passes(self, tenant: TenantId, name: Dataset, as_of: Point | None) -> list[Pass]:
        return fold_batches(known_at(self._store.read(collection_stream(tenant, name)), as_of))


def table_of(name: Dataset) -> str:
    return name.replace(".", "_").replace("-", "_")


def _rows_known(passes: Sequence[Pass], shape: DatasetShape) -> int | None:
    """The rows of the last pass when it is all that shows: not after a truncated one, and not for logs and deltas,
    where several rows may be of one thing."""
    if not any(attempt.batches for one in passes for attempt in one.attempts):
        return 0
    return passes[-1].rows if passes[-1].replaces and shape.mode not in ("window", "delta") else None


def _fetch(connection: duckdb.DuckDBPyConnection, statement: str) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    answer = connection.execute(statement)
    rows = answer.fetchmany(MAX_RESULT_ROWS + 1)
    if len(rows) > MAX_RESULT_ROWS:
        raise NotAllowed("show the result", f"it has more than {MAX_RESULT_ROWS} rows", "Add a LIMIT, or export.")
    return tuple(unique([str(column[0]) for column in answer.description or ()])), rows
