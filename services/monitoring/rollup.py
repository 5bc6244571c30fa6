"""Which minutes are due to be rolled up. Pure: the sums themselves are one statement in repository.py."""

from __future__ import annotations

from datetime import datetime, timedelta

MINUTE = timedelta(minutes=1)
LATE = 3 * MINUTE
STRIDE = timedelta(hours=6)


def due(now: datetime, oldest_left: datetime | None) -> list[tuple[datetime, datetime]]:
    """Spans of whole minutes [from, until) to roll, oldest first, each at most STRIDE long.

    The last LATE minutes are always due again, for rows that were written late; `oldest_left` is the first row
    that no rollup holds yet, so that an outage of the sweep leaves no hole.
    """
    until = floor(now)
    start = until - LATE
    if oldest_left is not None:
        start = min(start, floor(oldest_left))
    windows: list[tuple[datetime, datetime]] = []
    while start < until:
        end = min(start + STRIDE, until)
        windows.append((start, end))
        start = end
    return windows


def floor(moment: datetime) -> datetime:
    """The beginning of the minute."""
    return moment.replace(second=0, microsecond=0)
