"""Types of columns: what a value from a source becomes in one, and the type that values suggest. Pure.

A value fits a type when nothing of it is lost: "12" is an integer, "12 kg" and 1.5 are not.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from shared.contracts.sources import ColumnType

ARROW: Mapping[ColumnType, pa.DataType] = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "decimal": pa.string(),
    "text": pa.string(),
    "timestamp": pa.timestamp("us"),
    "date": pa.date32(),
    "json": pa.string(),
    "binary": pa.string(),
}
DUCK: Mapping[ColumnType, str] = {
    "boolean": "BOOLEAN",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "decimal": "VARCHAR",
    "text": "VARCHAR",
    "timestamp": "TIMESTAMP",
    "date": "DATE",
    "json": "VARCHAR",
    "binary": "VARCHAR",
}
WHOLE = re.compile(r"[+-]?[0-9]{1,19}")
LEAST, MOST = -(2**63), 2**63 - 1
EXACT_IN_FLOAT = 2**53


class Misfit(Exception):
    """A value that does not fit; the reason tells its kind and never the value itself."""


def converter(kind: ColumnType) -> Callable[[Any], Any]:
    """A function from a value that is not None to what stands in the column. It raises Misfit."""
    return _CONVERTERS[kind]


def suggested(values: Iterable[Any]) -> ColumnType | None:
    """The narrowest type that all values fit; None where there is none but nulls."""
    kinds = {_kind(value) for value in values if value is not None}
    if not kinds:
        return None
    if len(kinds) == 1:
        return kinds.pop()
    for wide, narrow in _WIDER:
        if kinds <= narrow:
            return wide
    return "json" if "json" in kinds else "text"


def _kind(value: Any) -> ColumnType:
    return next((kind for types, kind in _KINDS if isinstance(value, types)), "text")


_KINDS: tuple[tuple[type | tuple[type, ...], ColumnType], ...] = (
    (str, "text"),
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (Decimal, "decimal"),
    (datetime, "timestamp"),
    (date, "date"),
    ((bytes, bytearray, memoryview), "binary"),
    ((dict, list, tuple), "json"),
)
_WIDER: tuple[tuple[ColumnType, frozenset[ColumnType]], ...] = (
    ("number", frozenset({"integer", "number"})),
    ("decimal", frozenset({"integer", "number", "decimal"})),
    ("timestamp", frozenset({"date", "timestamp"})),
)


def named(value: Any) -> str:
    """The kind of a value in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN or infinity"
    kind = _kind(value)
    article = "an" if kind == "integer" else "a"
    return "text" if kind == "text" else "JSON" if kind == "json" else f"{article} {kind}"


def plain(value: Any) -> Any:
    """Any value as JSON can hold it."""
    if isinstance(value, datetime):
        return _naive(value).isoformat() + "Z" if value.tzinfo else value.isoformat()
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def canonical(value: Any) -> str:
    """Canonical JSON of any value."""
    return json.dumps(plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1) and isinstance(value, int):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise Misfit(f"{named(value)} where true or false stood before")


def _integer(value: Any) -> int:
    whole: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        whole = value
    elif isinstance(value, (float, Decimal)):
        whole = int(value) if math.isfinite(value) and value == int(value) else None
    elif isinstance(value, str) and WHOLE.fullmatch(value.strip()):
        whole = int(value)
    if whole is None or not LEAST <= whole <= MOST:
        raise Misfit(
            f"{named(value)}{'' if whole is None else ' beyond 64 bits'} where whole numbers are expected"
        )
    return whole


def _number(value: Any) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= EXACT_IN_FLOAT:
        return float(value)
    if isinstance(value, (Decimal, str)):
        try:
            exact = Decimal(value.strip()) if isinstance(value, str) else value
        except InvalidOperation:
            exact = None
        if exact is not None and exact.is_finite() and Decimal(repr(float(exact))) == exact:
            return float(exact)
    raise Misfit(f"{named(value)} where numbers are expected")


def _decimal(value: Any) -> str:
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return format(Decimal(value), "f")
    try:
        if isinstance(value, (float, str)):
            exact = Decimal(repr(value) if isinstance(value, float) else value.strip())
            if exact.is_finite():
                return format(exact, "f")
    except InvalidOperation:
        exact = None
    raise Misfit(f"{named(value)} where decimal numbers are expected")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list, tuple)):
        return canonical(value)
    return str(plain(value))


def _timestamp(value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError as exc:
            raise Misfit("text that is no date and time of ISO 8601") from exc
    if isinstance(value, datetime):
        return _naive(value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001
    raise Misfit(f"{named(value)} where a date and time is expected")


def _date(value: Any) -> date:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value.strip())
        except ValueError as exc:
            raise Misfit("text that is no date of ISO 8601") from exc
    if isinstance(value, datetime):
        if value.time() != time():
            raise Misfit("a time of day where dates are expected")
        return value.date()
    if isinstance(value, date):
        return value
    raise Misfit(f"{named(value)} where a date is expected")


def _binary(value: Any) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    raise Misfit(f"{named(value)} where bytes are expected")


def _naive(value: datetime) -> datetime:
    """In UTC without saying so: a time without a zone is taken for one of UTC."""
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


_CONVERTERS: Mapping[ColumnType, Callable[[Any], Any]] = {
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "decimal": _decimal,
    "text": _text,
    "timestamp": _timestamp,
    "date": _date,
    "json": canonical,
    "binary": _binary,
}


def cursor_out(value: Any) -> dict[str, Any]:
    """A cursor as JSON that `cursor_in` reads back without loss."""
    if isinstance(value, datetime):
        return {"timestamp": value.isoformat()}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    return {"plain": value}


def cursor_in(held: Mapping[str, Any]) -> Any:
    """The cursor that `cursor_out` wrote."""
    kind, value = next(iter(held.items()))
    read: Mapping[str, Callable[[Any], Any]] = {
        "timestamp": datetime.fromisoformat,
        "date": date.fromisoformat,
        "decimal": Decimal,
    }
    return read[kind](value) if kind in read else value


def before(cursor: Any, overlap: int) -> Any:
    """`overlap` seconds before a time, or that much less than a number; a text that is no time stays."""
    try:
        if isinstance(cursor, datetime):
            return cursor - timedelta(seconds=overlap)
        if isinstance(cursor, date):
            return cursor - timedelta(days=-(-overlap // 86_400))
        if isinstance(cursor, (int, float, Decimal)):
            return cursor - overlap
        moment = datetime.fromisoformat(cursor) - timedelta(seconds=overlap)
    except (ValueError, OverflowError):
        return cursor
    zulu = cursor.endswith("Z")
    text = moment.isoformat(sep=cursor[10] if len(cursor) > 10 else "T")
    return text.replace("+00:00", "Z") if zulu else text
