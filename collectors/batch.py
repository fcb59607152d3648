"""Writes batches: rows go from the reader straight to the batch store, sealed; only facts come back."""

from __future__ import annotations

from crypto.batch import BatchEncoder, BatchFacts
from crypto.datakey import DataKey
from domain.ids import Dataset, TenantId
from eventstore.batches import BatchStore


class BatchWriter:
    """For one dataset of one tenant."""

    def __init__(self, store: BatchStore, data_key: DataKey, tenant: TenantId, dataset: Dataset) -> None:
        self._store = store
        self._data_key = data_key
        self._tenant = tenant
        self._dataset = dataset

    def begin(self) -> BatchEncoder:
        return BatchEncoder(self._data_key, self._tenant, self._dataset)

    async def store(self, sealed: bytes, facts: BatchFacts) -> None:
        """Returns when the batch is stored for good. Raises `StorageFull` or `StoreUnavailable`."""
        await self._store.put(facts.key, sealed)
