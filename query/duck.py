"""DuckDB in memory: opened so that a statement reaches nothing but the tables given to it, and filled with rows.

External access (files, network, attached databases, extensions) is off and the configuration is locked. There is no
temporary directory, so no plaintext row is written to a disk: what does not fit in the memory limit fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC
from typing import ParamSpec, TypeVar

import duckdb
import msgspec

from domain.ids import TenantId
from query.merge import Row
from query.structure import OWN_COLUMNS, Column, columns_of

ROWS_AT_ONCE = 5_000
BYTES_AT_ONCE = 4 * 1024 * 1024
THREADS = 2
INTERRUPT_SECONDS = 0.05
_WIDE_INTEGER = r"[:,\[]\s*-?[0-9]{19}"

Sourced = tuple[TenantId, Row]
P = ParamSpec("P")
T = TypeVar("T")


def connect(memory_bytes: int, *, files: bool = False) -> duckdb.DuckDBPyConnection:
    """`files`: may write an export; such a connection never runs a statement of the user."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{memory_bytes}B",
            "temp_directory": "",
            "threads": THREADS,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("CREATE SCHEMA staging")
    if not files:
        connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


async def perform(connection: duckdb.DuckDBPyConnection, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """In a thread. When the caller is cancelled the connection is interrupted, and free again before this returns.

    DuckDB forgets an interrupt that comes before the statement has begun: it is said again until the thread is done.
    """
    done = asyncio.ensure_future(asyncio.to_thread(work, *args, **named))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        while not done.done():
            connection.interrupt()
            await asyncio.wait((done,), timeout=INTERRUPT_SECONDS)
        await asyncio.gather(done, return_exceptions=True)
        raise


async def chunks(rows: AsyncIterator[Sourced]) -> AsyncIterator[list[Sourced]]:
    """At most `ROWS_AT_ONCE` rows and about `BYTES_AT_ONCE` at a time."""
    chunk: list[Sourced] = []
    size_bytes = 0
    async for sourced in rows:
        chunk.append(sourced)
        size_bytes += len(sourced[1].raw)
        if len(chunk) >= ROWS_AT_ONCE or size_bytes >= BYTES_AT_ONCE:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk


class Filling:
    """A table while it is filled: rows are staged as JSON text, then become columns.

    Rows passed msgspec when they were read, which accepts no JSON that DuckDB refuses.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: str) -> None:
        self._connection = connection
        self._table = table
        self._origins: dict[tuple[str, object, str], int] = {}
        connection.execute(
            "CREATE OR REPLACE TABLE staging.origins (origin INTEGER, t VARCHAR, c TIMESTAMP, r VARCHAR)"
        )
        connection.execute("CREATE OR REPLACE TABLE staging.bodies (place BIGINT, origin INTEGER, body VARCHAR)")
        self._count = 0

    def add(self, chunk: Sequence[Sourced]) -> None:
        origins = [self._origin(tenant, row) for tenant, row in chunk]
        bodies = [row.raw.decode("utf-8", "replace") for _, row in chunk]
        self._connection.execute(
            "INSERT INTO staging.bodies SELECT ? + generate_subscripts(o, 1), unnest(o), unnest(b)"
            " FROM (SELECT ?::INTEGER[] AS o, ?::VARCHAR[] AS b)",
            [self._count, origins, bodies],
        )
        self._count += len(chunk)

    def _origin(self, tenant: TenantId, row: Row) -> int:
        source = (tenant, row.collected_at, row.run)
        known = self._origins.get(source)
        if known is None:
            known = self._origins[source] = len(self._origins)
            at = row.collected_at.astimezone(UTC).replace(tzinfo=None)
            self._connection.execute("INSERT INTO staging.origins VALUES (?, ?, ?, ?)", [known, tenant, at, row.run])
        return known

    def finish(self, declared: Sequence[str], *, flat: bool = False) -> int:
        """Makes the table, with the declared columns at least, and returns how many rows it has."""
        columns = self._columns(declared, flat=flat)
        self._connection.execute(_create(self._table, columns))
        self._connection.execute("DROP TABLE staging.bodies")
        self._connection.execute("DROP TABLE staging.origins")
        return self._count

    def _columns(self, declared: Sequence[str], *, flat: bool) -> list[Column]:
        wide = self._connection.execute(
            "SELECT count(*) > 0 FROM staging.bodies WHERE regexp_matches(body, ?)", [_WIDE_INTEGER]
        ).fetchall()
        found = self._connection.execute(
            "SELECT json_structure(body) AS s FROM staging.bodies GROUP BY s ORDER BY min(place)"
        ).fetchall()
        structures = (msgspec.json.decode(text) for (text,) in found)
        return columns_of(structures, declared, wide=bool(wide[0][0]), flat=flat)


def create_empty(connection: duckdb.DuckDBPyConnection, table: str, declared: Sequence[str]) -> None:
    Filling(connection, table).finish(declared)


def _create(table: str, columns: Sequence[Column]) -> str:
    direct = {column.of: column.structure for column in columns if column.direct}
    parts = [
        f"s[{_literal(column.of)}] AS {_name(column.name)}"
        if column.direct
        else f"json_transform(json_extract(body, {_literal(_pointer(column.of))}), {_json(column.structure)})"
        f" AS {_name(column.name)}"
        for column in columns
    ]
    own = [f"{source} AS {_name(name)}" for source, name in zip(("t", "c", "r"), OWN_COLUMNS, strict=True)]
    struct = f"json_transform(body, {_json(direct)})" if direct else "NULL"
    return (
        f"CREATE TABLE {_name(table)} AS SELECT {', '.join(parts + own)}"  # noqa: S608 - names and literals are quoted
        f" FROM (SELECT {struct} AS s, * FROM staging.bodies JOIN staging.origins USING (origin))"
    )


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _json(structure: object) -> str:
    return _literal(msgspec.json.encode(structure).decode())


def _pointer(name: str) -> str:
    """RFC 6901."""
    return "/" + name.replace("~", "~0").replace("/", "~1")
