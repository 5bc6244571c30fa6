"""Values of columns as numbers, truth values and dates, as people in China and elsewhere write them. Pure."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

from shared.text.pii import narrow

_INT = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}|[0-9]{1,40})(?:\.0{1,12})?")
_FLOAT = re.compile(
    r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}|[0-9]{1,60})?(?:\.[0-9]{1,60})?(?:[eE][+-]?[0-9]{1,4})?"
)
_TRUE = frozenset(("true", "yes", "y", "1", "t", "on", "是", "真", "对", "有"))
_FALSE = frozenset(("false", "no", "n", "0", "f", "off", "否", "假", "错", "无"))
_DATE = r"(?P<year>[0-9]{4})(?:年|[-/.])(?P<month>[0-9]{1,2})(?:月|[-/.])(?P<day>[0-9]{1,2})日?"
_TIME = (
    r"(?P<hour>[0-9]{1,2})[:时点](?P<minute>[0-9]{1,2})"
    r"(?:[:分](?P<second>[0-9]{1,2})(?:\.(?P<part>[0-9]{1,9}))?秒?|分)?"
)
_ZONE = r"(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?"
_WHEN = re.compile(rf"{_DATE}(?:[T ]{{0,2}}{_TIME} ?{_ZONE})?")
_COMPACT = re.compile(r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})")


class CannotCast(ValueError):
    """The value has no form that the type can be read from."""


def is_blank(value: Any) -> bool:
    """Missing, null, or nothing but white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def cast(value: Any, kind: str) -> Any:
    """`value` (a JSON value that is not blank) as `int`, `float`, `bool`, `str`, `date` or `datetime`.

    Dates come back as ISO 8601 text. Raises CannotCast.
    """
    return _CASTS[kind](value)


def as_text(value: Any) -> str:
    """A value as a reader would write it: whole floats without their point, truth values in lower case."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    raise CannotCast


def _plain(value: Any) -> str:
    if not isinstance(value, str):
        raise CannotCast
    return narrow(value).strip()


def _int(value: Any) -> int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if value.is_integer():
            return int(value)
        raise CannotCast
    text = _plain(value)
    if not _INT.fullmatch(text):
        raise CannotCast
    return int(text.replace(",", "").partition(".")[0])


def _float(value: Any) -> float:
    if isinstance(value, int | float):
        number = value
    else:
        text = _plain(value)
        if not text.strip("+-.") or not _FLOAT.fullmatch(text):
            raise CannotCast
        try:
            number = float(text.replace(",", ""))
        except ValueError as exc:
            raise CannotCast from exc
    try:
        number = float(number)
    except OverflowError as exc:
        raise CannotCast from exc
    if not math.isfinite(number):
        raise CannotCast
    return number


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(int(value)) if isinstance(value, int | float) and value in (0, 1) else _plain(value).lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise CannotCast


def _date(value: Any) -> str:
    text = _plain(str(value) if isinstance(value, int) and not isinstance(value, bool) else value)
    match = _COMPACT.fullmatch(text) or _WHEN.fullmatch(text)
    if match is None:
        raise CannotCast
    try:
        return datetime.date(int(match["year"]), int(match["month"]), int(match["day"])).isoformat()
    except ValueError as exc:
        raise CannotCast from exc


def _datetime(value: Any) -> str:
    day = _date(value)
    match = _WHEN.fullmatch(_plain(value)) if isinstance(value, str) else None
    if match is None or match["hour"] is None:
        return f"{day}T00:00:00"
    micros = int((match["part"] or "0").ljust(6, "0")[:6])
    try:
        time = datetime.time(int(match["hour"]), int(match["minute"]), int(match["second"] or 0), micros)
    except ValueError as exc:
        raise CannotCast from exc
    return f"{day}T{time.isoformat()}{_zone(match['zone'])}"


def _zone(zone: str | None) -> str:
    if not zone or zone == "Z":
        return zone or ""
    return zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"


_CASTS: dict[str, Callable[[Any], Any]] = {
    "int": _int, "float": _float, "bool": _bool, "str": as_text, "date": _date, "datetime": _datetime,
}  # fmt: skip
