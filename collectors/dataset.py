"""A dataset: one declared thing to collect. Pure data and the arithmetic of its windows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from domain import ids
from domain.events import Mode

Workload = Literal["graph", "exchange", "exchange-server"]
Value = bool | int | str | list[str]


class Dataset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One row of the catalog. The first part of `name` has to go with `workload` (`domain.ids.AREAS`).

    Graph asks `path` (with `{item}` for mode `per-item`) with `select` and `query`; Exchange runs `cmdlet` with
    `parameters`, `item_parameter` taking the item. `items` names the dataset whose `item_key` property lists the items.
    `cost` is charged per request (per item inside a batch) to `bucket`, in the units of `throttle.LIMITS`.
    `count`: a Graph path that answers how many rows a full round of mode `delta` has. `after`: the dataset that must be
    complete first, in runs that have it.
    """

    name: ids.Dataset
    workload: Workload
    mode: Mode
    key: str
    permission: str
    path: str = ""
    cmdlet: str = ""
    select: tuple[str, ...] = ()
    query: dict[str, str] = {}
    parameters: dict[str, Value] = {}
    page_size: int = 0
    items: str = ""
    item_key: str = ""
    item_parameter: str = "Identity"
    items_per_request: int = 20
    time_property: str = ""
    step_hours: int = 24
    lookback_days: int = 30
    overlap_hours: int = 0
    count: str = ""
    licence: str = ""
    bucket: str = ""
    cost: float = 1.0
    after: str = ""

    @property
    def throttled_by(self) -> str:
        """The bucket that its requests are charged to; each workload has one of its name."""
        return self.bucket or self.workload


def window_of(dataset: Dataset, watermark: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """From and until of the next collection: `overlap_hours` before the watermark, or `lookback_days` at first.

    Late rows are found again by the overlap; no window reaches further back than the service keeps its log.
    """
    earliest = now - timedelta(days=dataset.lookback_days)
    if watermark is None:
        return earliest, now
    return min(max(watermark - timedelta(hours=dataset.overlap_hours), earliest), now), now


def lost_of(dataset: Dataset, watermark: datetime | None, now: datetime) -> tuple[datetime, datetime] | None:
    """From and until of what no collection will have any more: behind the watermark, but before the log begins."""
    earliest = now - timedelta(days=dataset.lookback_days)
    return (watermark, earliest) if watermark is not None and watermark < earliest else None
