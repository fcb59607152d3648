"""What travels between a tenant actor and a collector: small, immutable, without secrets or rows."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

from domain.events import ExchangeServer, Mode
from domain.ids import Dataset, RunId, TenantId
from domain.settings import Cloud


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One collection to carry out, or to go on with.

    `mode` is how to read this time (a delta dataset is read `full` at first). `since`: the delta link of the last
    complete collection. `window`: from (inclusive) and until (exclusive). `cursor`: of the last recorded batch since
    the last restart. `restarts`: how often this collection began again already.
    """

    tenant: TenantId
    run: RunId
    dataset: Dataset
    mode: Mode
    cloud: Cloud
    since: str | None = None
    window: tuple[datetime, datetime] | None = None
    cursor: str | None = None
    restarts: int = 0
    exchange_server: ExchangeServer | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A stored batch: the facts of `domain.events.BatchRecorded` except the run."""

    key: str
    data_key: str
    rows: int
    row_bytes: int
    stored_bytes: int
    digest: str
    requests: int
    after: str | None
    cursor: str


class Complete(msgspec.Struct, frozen=True, kw_only=True, tag="complete", omit_defaults=True):
    """Everything was read. `expected`: how many rows the service announced, and `expected_by` how it did so."""

    expected: int | None = None
    expected_by: str | None = None
    delta_link: str | None = None
    watermark: datetime | None = None


class Truncated(msgspec.Struct, frozen=True, tag="truncated"):
    """Something is missing: `reason` is a stable word, `detail` a sentence."""

    reason: str
    detail: str


class NotPossible(msgspec.Struct, frozen=True, tag="not-possible"):
    """Nothing can be read until somebody changes something: `detail` says what."""

    reason: str
    detail: str


class Restart(msgspec.Struct, frozen=True, tag="restart"):
    """Batches so far no longer count: assign it again without cursor, with this mode and one restart more."""

    reason: str
    mode: Mode


End: TypeAlias = Complete | Truncated | NotPossible | Restart


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of a session achieved. Record `batch` first, then `end`; `requests` counts both."""

    batch: Batch | None
    end: End | None
    requests: int
