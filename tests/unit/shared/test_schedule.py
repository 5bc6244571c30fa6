"""Cron schedules: what is refused, and the moments that a time zone and its changes of clocks give."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shared.contracts.schedule import Schedule, check_schedule, next_moment
from shared.errors import InvalidInput


def moments(cron: str, zone: str, start: str, count: int) -> list[str]:
    at, found = datetime.fromisoformat(start), []
    for _ in range(count):
        at = next_moment(Schedule(cron=cron, timezone=zone), at)
        found.append(at.strftime("%m-%dT%H:%M"))
    return found


def test_a_moment_is_in_the_time_of_its_zone() -> None:
    assert moments("0 9 * * *", "Asia/Shanghai", "2026-11-24T00:00:00+00:00", 2) == [
        "11-24T01:00",
        "11-25T01:00",
    ]


def test_an_hour_that_is_skipped_in_spring_is_made_up_for() -> None:
    found = moments("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00+00:00", 3)
    assert found == ["03-28T01:30", "03-29T01:00", "03-30T00:30"]


def test_an_hour_that_comes_twice_in_autumn_is_met_once_by_a_fixed_hour() -> None:
    found = moments("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+00:00", 2)
    assert found == ["10-25T00:30", "10-26T01:30"]


def test_an_hour_that_comes_twice_is_met_twice_where_every_hour_is_named() -> None:
    found = moments("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00+00:00", 3)
    assert found == ["10-25T00:30", "10-25T01:30", "10-25T02:30"]


@pytest.mark.parametrize(
    ("cron", "zone", "param"),
    [
        ("* * * *", "UTC", "schedule.cron"),
        ("* * * * * *", "UTC", "schedule.cron"),
        ("61 * * * *", "UTC", "schedule.cron"),
        ("@daily", "UTC", "schedule.cron"),
        ("0 0 31 2 *", "UTC", "schedule.cron"),
        ("0 0 * * *", "Mars/Olympus", "schedule.timezone"),
        ("0 0 * * *", "../../etc/passwd", "schedule.timezone"),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(cron: str, zone: str, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_schedule(Schedule(cron=cron, timezone=zone), "schedule")
    assert caught.value.param == param


def test_the_next_moment_is_later_than_the_one_it_is_asked_after() -> None:
    at = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
    assert next_moment(Schedule(cron="*/5 * * * *"), at) == datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
