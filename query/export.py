"""A table as a file: Parquet and CSV by DuckDB, JSON lines with the rows byte for byte as they were sent.

The file is written in a new directory (0700) beside its place, synced and renamed there, so nobody sees half of it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import BinaryIO, Literal, get_args

import duckdb
import msgspec

from domain.errors import Malformed, NotAllowed, StorageFull, TenantryError
from eventstore.disk import destination, sync
from query.duck import Filling, Sourced, connect, perform
from query.structure import OWN_COLUMNS

Format = Literal["parquet", "csv", "jsonl"]
COPY_OPTIONS: dict[str, str] = {"parquet": "FORMAT parquet, COMPRESSION zstd", "csv": "FORMAT csv, HEADER true"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


async def write(
    chunks: AsyncIterator[list[Sourced]],
    path: Path,
    format: Format,
    *,
    table: str,
    declared: Sequence[str],
    memory_bytes: int,
    overwrite: bool,
) -> int:
    """Returns how many rows were written. Raises `Malformed` (format), `StorageFull` or `NotAllowed` (path)."""
    if format not in get_args(Format):
        raise Malformed("format", format, " or ".join(get_args(Format)))
    target = await asyncio.to_thread(destination, path, overwrite=overwrite)
    try:
        beside = Path(await asyncio.to_thread(mkdtemp, prefix=".export-", dir=target.parent))
        try:
            unfinished = beside / "rows"
            if format == "jsonl":
                count = await _lines(chunks, unfinished)
            else:
                count = await _copy(
                    chunks, unfinished, format, table=table, declared=declared, memory_bytes=memory_bytes
                )
            await asyncio.to_thread(_publish, unfinished, target)
        finally:
            await asyncio.to_thread(rmtree, beside)
    except (OSError, duckdb.IOException) as error:
        raise _failed(path, error) from None
    return count


async def _lines(chunks: AsyncIterator[list[Sourced]], path: Path) -> int:
    count = 0
    file = await asyncio.to_thread(path.open, "xb")
    try:
        async for chunk in chunks:
            await asyncio.to_thread(_append, file, chunk)
            count += len(chunk)
    finally:
        await asyncio.to_thread(file.close)
    return count


def _append(file: BinaryIO, chunk: Sequence[Sourced]) -> None:
    for tenant, row in chunk:
        own = dict(zip(OWN_COLUMNS, (tenant, row.collected_at, row.run), strict=True))
        members = row.raw.strip()[1:-1].strip()
        file.write(b"{" + members + (b"," if members else b"") + msgspec.json.encode(own)[1:] + b"\n")


async def _copy(
    chunks: AsyncIterator[list[Sourced]],
    path: Path,
    format: Format,
    *,
    table: str,
    declared: Sequence[str],
    memory_bytes: int,
) -> int:
    connection = connect(memory_bytes, files=True)
    try:
        filling = Filling(connection, table)
        async for chunk in chunks:
            await perform(connection, filling.add, chunk)
        count = await perform(connection, filling.finish, declared, flat=format == "csv")
        place = str(path).replace("'", "''")
        await perform(connection, connection.execute, f"COPY {table} TO '{place}' ({COPY_OPTIONS[format]})")
    finally:
        connection.close()
    return count


def _publish(unfinished: Path, path: Path) -> None:
    unfinished.chmod(0o600)
    sync(unfinished)
    unfinished.replace(path)
    sync(path.parent)


def _failed(path: Path, error: Exception) -> TenantryError:
    why = " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
    if (isinstance(error, OSError) and error.errno in _FULL) or "No space left" in why:
        return StorageFull(path, why)
    return NotAllowed(f"write {path}", why, "Choose a path that can be written.")
