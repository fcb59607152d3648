"""A batch of some rows, as a collector makes it."""

from __future__ import annotations

from collections.abc import Sequence

from crypto.batch import BatchEncoder, BatchFacts
from crypto.datakey import DataKey
from domain.ids import Dataset, TenantId


def encode_batch(
    rows: Sequence[bytes], data_key: DataKey, tenant: TenantId, dataset: Dataset
) -> tuple[bytes, BatchFacts]:
    encoder = BatchEncoder(data_key, tenant, dataset)
    encoder.add(rows)
    return encoder.finish()
