"""Quota as data, and the arithmetic of staying below it. Pure: time is an argument, in seconds of any steady clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple


class Limit(NamedTuple):
    """`units` per `seconds`, which may also be spent at once."""

    units: float
    seconds: float


LIMITS: dict[str, Limit] = {
    "graph": Limit(3_500, 10),
    "graph-audit": Limit(5, 10),
    "usage-report": Limit(14, 600),
    "exchange": Limit(3_000, 30),
    "exchange-server": Limit(60, 60),
    "download": Limit(100, 10),
}
"""Per tenant. `graph`: resource units of the smallest tenant size; `graph-audit`: identity and access reports;
`usage-report`: CSV, each report by itself (learn.microsoft.com/graph/throttling-limits, February 2026). Exchange
publishes none: a capture of May 2024 showed `Rate-Limit-Limit: 30000`, taken here as five minutes. The rest is ours."""

SLOW_FROM = 0.8
"""`x-ms-throttle-limit-percentage` appears from here on; 1.0 is the limit."""
LONGEST_RETRY_AFTER = 3600.0
MOST_BUCKETS = 10_000


@dataclass(slots=True)
class Bucket:
    """A token bucket that may go into debt: whoever takes too much waits until it is paid."""

    limit: Limit
    level: float
    at: float
    closed_until: float = 0.0

    def take(self, cost: float, now: float) -> float:
        """Seconds to wait before a request of this cost may be sent; it is charged at once."""
        self._fill(now)
        self.level -= min(cost, self.limit.units)
        debt = max(0.0, -self.level) * self.limit.seconds / self.limit.units
        return max(debt, self.closed_until - now, 0.0)

    def close(self, seconds: float, now: float) -> None:
        """Nothing is sent for a while: the service said so."""
        self.closed_until = max(self.closed_until, now + seconds)

    def slow(self, share: float, now: float) -> None:
        """The service counts `share` of the limit as used: believe it when it is more than we counted."""
        self._fill(now)
        self.level = min(self.level, self.limit.units * (1.0 - share))

    def _fill(self, now: float) -> None:
        gained = max(0.0, now - self.at) * self.limit.units / self.limit.seconds
        self.level = min(self.limit.units, self.level + gained)
        self.at = max(self.at, now)


class Buckets:
    """Buckets by (tenant, name). A name may carry a part after a slash that tells buckets of one limit apart."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def take(self, tenant: str, name: str, cost: float, now: float) -> float:
        """Seconds to wait; see `Bucket.take`."""
        return self._bucket(tenant, name, now).take(cost, now)

    def observe(self, tenant: str, name: str, status: int, headers: Mapping[str, str], now: float) -> None:
        """Learn from an answer's headers (lower-case names): `Retry-After` and how near the limit is."""
        bucket = self._bucket(tenant, name, now)
        if status in (429, 503) and (seconds := retry_after(headers)) is not None:
            bucket.close(seconds, now)
        share = _number(headers.get("x-ms-throttle-limit-percentage", ""))
        if share is not None and share >= SLOW_FROM:
            bucket.slow(min(share, 2.0), now)

    def _bucket(self, tenant: str, name: str, now: float) -> Bucket:
        key = (tenant, name)
        if key not in self._buckets:
            limit = LIMITS[name.partition("/")[0]]
            self._buckets[key] = Bucket(limit, limit.units, now)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return self._buckets[key]


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds, from an integer, a decimal or an HTTP date (measured from the answer's own `Date`, or `now`).

    None when it is absent or says nothing; never more than an hour.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    seconds = _number(value)
    if seconds is None:
        until = _http_date(value)
        since = _http_date(headers.get("date", "")) or now
        if until is None or since is None:
            return None
        seconds = (until - since).total_seconds()
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)


def _number(text: str) -> float | None:
    digits = text.strip()
    if len(digits) > 20 or not digits.replace(".", "", 1).isdigit() or not digits.isascii():
        return None
    return float(digits)


def _http_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
