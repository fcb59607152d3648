"""Which reader reads a dataset: a table of workload and mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from collectors.dataset import Dataset
from collectors.exchange import ExchangeList, ExchangeServerList
from collectors.graph import GraphDelta, GraphList, GraphWindow
from collectors.per_item import PerItemReader
from collectors.reader import Reader
from collectors.report import GraphReport
from collectors.work import Assignment

READERS: dict[tuple[str, str], Callable[[Dataset, Assignment], Reader]] = {
    ("graph", "full"): GraphList,
    ("graph", "delta"): GraphDelta,
    ("graph", "window"): GraphWindow,
    ("graph", "report"): GraphReport,
    ("exchange", "full"): ExchangeList,
    ("exchange-server", "full"): ExchangeServerList,
}


def reader_for(dataset: Dataset, assignment: Assignment, items: Iterable[str] = ()) -> Reader:
    """A reader at the assignment's cursor. `items`: for mode `per-item`, the parent's `item_key` values."""
    if dataset.mode == "per-item":
        return PerItemReader(dataset, assignment, items)
    return READERS[dataset.workload, dataset.mode](dataset, assignment)
