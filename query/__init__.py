"""Collected rows as they are and as they were: folded from their batches, as tables with SQL, and exported. Reads only.

`query.state` folds, `query.tables` needs DuckDB and is imported where it is used.
"""

from query.merge import DatasetShape, Row
from query.state import fold_batches, items_of

__all__ = ["DatasetShape", "Row", "fold_batches", "items_of"]
