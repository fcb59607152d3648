"""The bytes of a batch: rows as lines (NDJSON), zstd, sealed with the tenant's data key.

    batch  = DataKey.seal(zstd(row LF row LF ...), context("batch", tenant, dataset, digest))
    digest = SHA-256 of the lines, in hex
    key    = tenant/dataset/digest

The name of a batch follows from its rows alone, so writing it again is harmless; moved or swapped, it does not open.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import msgspec
import zstandard

from crypto.datakey import DataKey
from crypto.transit import context
from domain.errors import ProtocolViolation, SealBroken
from domain.ids import Dataset, TenantId

LEVEL = 3
MOST_ROW_BYTES = 512 << 20
"""A batch is about 8 MiB; a report of the largest tenants is one batch."""
_READ_BYTES = 1 << 20


class BatchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`data_key`: id of the key it is sealed with. `row_bytes`: of the lines; `stored_bytes`: of the sealed batch."""

    key: str
    data_key: str
    rows: int
    row_bytes: int
    stored_bytes: int
    digest: str


class BatchEncoder:
    """Takes rows as they come, so that only compressed ones are kept. Each call works without the interpreter's lock
    for its greater part and may run in a thread, one call at a time."""

    def __init__(self, data_key: DataKey, tenant: TenantId, dataset: Dataset) -> None:
        self._data_key = data_key
        self._tenant = tenant
        self._dataset = dataset
        self._digest = hashlib.sha256()
        self._zstd = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._compressed: list[bytes] = []
        self.rows = 0
        self.row_bytes = 0

    def add(self, rows: Sequence[bytes]) -> None:
        """Rows are JSON objects without newlines. Raises `ProtocolViolation` for others, and for more than a batch
        may hold: what cannot be read again is not written."""
        if not rows:
            return
        lines = b"\n".join((*rows, b""))
        if lines.count(b"\n") != len(rows):
            raise ProtocolViolation(self._dataset, "a row with a newline in it")
        if self.row_bytes + len(lines) > MOST_ROW_BYTES:
            raise ProtocolViolation(self._dataset, f"more than {MOST_ROW_BYTES} bytes of rows at once")
        self._digest.update(lines)
        self._compressed.append(self._zstd.compress(lines))
        self.rows += len(rows)
        self.row_bytes += len(lines)

    def finish(self) -> tuple[bytes, BatchFacts]:
        """The sealed batch and its facts. The encoder is spent."""
        self._compressed.append(self._zstd.flush())
        digest = self._digest.hexdigest()
        sealed = self._data_key.seal(b"".join(self._compressed), _context(self._tenant, self._dataset, digest))
        return sealed, BatchFacts(
            key=f"{self._tenant}/{self._dataset}/{digest}",
            data_key=self._data_key.id,
            rows=self.rows,
            row_bytes=self.row_bytes,
            stored_bytes=len(sealed),
            digest=digest,
        )


def decode_batch(sealed: bytes, data_key: DataKey, tenant: TenantId, dataset: Dataset, digest: str) -> list[bytes]:
    """The rows. Raises `SealBroken` unless these are exactly the rows that were sealed as this batch."""
    compressed = data_key.open(sealed, _context(tenant, dataset, digest))
    lines = _decompress(compressed)
    if hashlib.sha256(lines).hexdigest() != digest:
        raise SealBroken("batch", "its rows do not have its digest")
    return lines.split(b"\n")[:-1]


def _decompress(compressed: bytes) -> bytes:
    lines = bytearray()
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(compressed)) as reader:
            while part := reader.read(_READ_BYTES):
                lines += part
                if len(lines) > MOST_ROW_BYTES:
                    raise SealBroken("batch", f"it holds more than {MOST_ROW_BYTES} bytes")
    except zstandard.ZstdError as error:
        raise SealBroken("batch", "it is no zstd") from error
    return bytes(lines)


def _context(tenant: TenantId, dataset: Dataset, digest: str) -> bytes:
    return context("batch", tenant, dataset, digest)
