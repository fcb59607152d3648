"""Buckets and `Retry-After`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.throttle import LIMITS, MOST_BUCKETS, Bucket, Buckets, Limit, retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("2.128", 2.128),
        (" 0 ", 0.0),
        ("999999", 3600.0),
        ("Sun, 22 Nov 2026 20:30:10 GMT", 10.0),
        ("Sun, 22 Nov 2026 20:29:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("nan", None),
        ("\u0661", None),
        ("9" * 400, None),
    ],
)
def test_retry_after_is_read_in_every_form(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value, "date": "Sun, 22 Nov 2026 20:30:00 GMT"}) == seconds


def test_a_date_is_measured_from_now_when_the_answer_names_no_time() -> None:
    headers = {"retry-after": "Sun, 22 Nov 2026 20:30:10 GMT"}
    assert retry_after(headers, datetime(2026, 11, 22, 20, 30, 4, tzinfo=UTC)) == 6.0
    assert retry_after(headers) is None
    assert retry_after({}) is None


@given(st.text(max_size=60))
def test_any_retry_after_is_an_answer(value: str) -> None:
    seconds = retry_after({"retry-after": value, "date": value})
    assert seconds is None or 0 <= seconds <= 3600


@given(costs=st.lists(st.floats(0.1, 5), min_size=1, max_size=60), pauses=st.lists(st.floats(0, 3), min_size=60))
def test_no_window_holds_more_than_twice_the_limit(costs: list[float], pauses: list[float]) -> None:
    """The bucket's own amount may be spent at once, and once more while it fills: the bound of every token bucket."""
    limit, now = Limit(5, 10), 0.0
    bucket, sent = Bucket(limit, 5, now), []
    for cost, pause in zip(costs, pauses, strict=False):
        now += pause
        now += bucket.take(cost, now)
        sent.append((now, cost))
    for start, _ in sent:
        assert sum(cost for at, cost in sent if start <= at < start + 10) <= 2 * limit.units + 5.001


def test_tenants_and_buckets_do_not_wait_for_each_other() -> None:
    buckets = Buckets()
    for _ in range(5):
        assert buckets.take("a", "graph-audit", 1, 0.0) == 0
    assert buckets.take("a", "graph-audit", 1, 0.0) == 2.0
    assert buckets.take("b", "graph-audit", 1, 0.0) == 0
    assert buckets.take("a", "graph", 1, 0.0) == 0


def test_each_report_has_a_bucket_of_its_own() -> None:
    buckets = Buckets()
    for _ in range(14):
        assert buckets.take("a", "usage-report/one", 1, 0.0) == 0
    assert buckets.take("a", "usage-report/one", 1, 0.0) > 0
    assert buckets.take("a", "usage-report/two", 1, 0.0) == 0


def test_retry_after_closes_the_bucket() -> None:
    buckets = Buckets()
    buckets.observe("a", "graph", 429, {"retry-after": "12"}, 100.0)
    assert buckets.take("a", "graph", 1, 104.0) == 8.0
    assert buckets.take("a", "graph", 1, 113.0) == 0


def test_traffic_slows_down_before_the_limit() -> None:
    buckets = Buckets()
    units, seconds = LIMITS["graph"]
    buckets.observe("a", "graph", 200, {"x-ms-throttle-limit-percentage": "1.2"}, 0.0)
    assert buckets.take("a", "graph", 1, 0.0) == pytest.approx(0.2 * seconds + seconds / units)
    buckets.observe("b", "graph", 200, {"x-ms-throttle-limit-percentage": "0.5"}, 0.0)
    assert buckets.take("b", "graph", 1, 0.0) == 0


def test_buckets_are_bounded() -> None:
    buckets = Buckets()
    for number in range(MOST_BUCKETS + 10):
        buckets.take(str(number), "graph", 1, 0.0)
    assert len(buckets._buckets) == MOST_BUCKETS
