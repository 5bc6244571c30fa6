"""Which minutes a sweep rolls up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from services.monitoring.rollup import STRIDE, due

NOW = datetime(2030, 1, 1, 12, 30, 2, tzinfo=UTC)


def at(hour: int, minute: int, second: int = 0) -> datetime:
    return datetime(2030, 1, 1, hour, minute, second, tzinfo=UTC)


def test_the_last_three_whole_minutes_are_always_due() -> None:
    assert due(NOW, None) == [(at(12, 27), at(12, 30))]
    assert due(NOW, at(12, 29, 30)) == [(at(12, 27), at(12, 30))]


def test_the_running_minute_is_not_due() -> None:
    assert due(NOW, at(12, 30, 1))[-1][1] == at(12, 30)


def test_an_outage_is_made_up_for_from_the_first_row_left() -> None:
    assert due(NOW, at(11, 5, 40)) == [(at(11, 5), at(12, 30))]


def test_a_long_outage_is_cut_into_strides_without_gap_or_overlap() -> None:
    windows = due(NOW, NOW - timedelta(hours=20))
    assert windows[0][0] == datetime(2029, 12, 31, 16, 30, tzinfo=UTC)
    assert windows[-1][1] == at(12, 30)
    assert all(a[1] == b[0] for a, b in pairwise(windows))
    assert max(end - start for start, end in windows) <= STRIDE
