"""Cron schedules with a time zone: what may stand in one, and the next moment that it names. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter

from shared.contracts.base import Message
from shared.errors import InvalidInput

FIELDS = 5
MAX_CRON = 200


class Schedule(Message):
    """Five fields: minute, hour, day of month, month, day of week; in the time of `timezone` (IANA)."""

    cron: str
    timezone: str = "UTC"


def check_schedule(schedule: Schedule, param: str) -> None:
    """Raise InvalidInput for an expression or a zone that there is none of, or that never comes."""
    _zone(schedule.timezone, param)
    fields = schedule.cron.split()
    if len(fields) != FIELDS or len(schedule.cron) > MAX_CRON or not croniter.is_valid(schedule.cron):
        raise InvalidInput(
            f"{param}.cron: {schedule.cron[:60]!r} is not five fields of cron (minute, hour, day, month, weekday), "
            "such as '30 2 * * *' for half past two each night",
            param=f"{param}.cron",
        )
    next_moment(schedule, datetime.now(UTC), param)


def next_moment(schedule: Schedule, after: datetime, param: str = "schedule") -> datetime:
    """The first moment later than `after` (aware) that the schedule names, in UTC.

    An hour that a change of clocks skips is made up for at its end. One that comes twice is met once by a schedule
    of fixed hours, and twice by one that names every hour, as cron has it.
    """
    zone = _zone(schedule.timezone, param)
    try:
        moments = croniter(schedule.cron, after.astimezone(zone))
        found: datetime = moments.get_next(datetime)
        while found.fold and schedule.cron.split()[1] != "*":
            found = moments.get_next(datetime)
    except (CroniterError, ValueError, OverflowError) as exc:
        raise InvalidInput(f"{param}.cron: {schedule.cron!r} never comes", param=f"{param}.cron") from exc
    return found.astimezone(UTC)


def _zone(name: str, param: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvalidInput(
            f"{param}.timezone: there is no time zone {name[:60]!r}; one is called 'Asia/Shanghai' or 'UTC'",
            param=f"{param}.timezone",
        ) from exc
