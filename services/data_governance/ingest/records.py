"""From one parsed source record to a row, by the recipe's mapping. Knows no file format."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.data_governance.ingest.bad_rows import BadRow
from services.data_governance.rows import Message, Row, make_row_id
from shared.contracts.recipe import InputMapping
from shared.contracts.recipe_text import did_you_mean
from shared.errors import InvalidInput

MAX_DEPTH = 32
MAX_MESSAGES = 4096
# The column in which a sync says where a row is from: `source`, `key` and more.
ORIGIN = "_origin"
Record = Mapping[str, Any]


def check_columns(mapping: InputMapping, columns: Sequence[str]) -> None:
    """Raises InvalidInput when the mapping names a column that the file does not have."""
    for field in ("messages", "prompt", "completion", "context", "text", "id", "label", "system"):
        column = getattr(mapping, field)
        if column is not None and column not in columns:
            raise InvalidInput(
                f"input.{field}: the file has no column `{column}`; {did_you_mean(column, list(columns[:50]))}",
                code="unknown_column",
                param=f"input.{field}",
            )


def row_maker(mapping: InputMapping, source_sha256: str, source: int = 0) -> Callable[[int, Record], Row]:
    """A function of line number and record that returns the row, or raises BadRow with code and reason."""
    mapped = frozenset(mapping.columns())

    def make(line: int, record: Record) -> Row:
        rest = {key: value for key, value in record.items() if key not in mapped}
        messages: tuple[Message, ...] | None = None
        text: str | None = None
        if mapping.text is not None:
            text = _string(record, mapping.text)
        elif mapping.messages is not None:
            messages, extra = _conversation(record, mapping)
            if extra:
                rest["message_fields"] = extra
        else:
            assert mapping.prompt is not None
            assert mapping.completion is not None
            prompt, completion = _string(record, mapping.prompt), _scalar(record, mapping.completion)
            if completion is None:
                raise BadRow("missing_field", f"column `{mapping.completion}` is missing or null")
            if mapping.context is not None and record.get(mapping.context) is not None:
                context = _string(record, mapping.context)
                prompt = f"{prompt}\n\n{context}" if context.strip() else prompt
            messages = (Message("user", prompt), Message("assistant", completion))
        if messages is not None and mapping.system is not None and record.get(mapping.system):
            messages = (Message("system", _string(record, mapping.system)), *messages)
        label = _scalar(record, mapping.label) if mapping.label is not None else None
        identity = _scalar(record, mapping.id) if mapping.id is not None else None
        meta = _meta(rest) if rest else "{}"
        origin = _origin(rest)
        row = Row("", line, identity or origin[1] or str(line), messages, text, label or None, meta)
        content = row.content()
        try:
            if origin[0]:
                # The state of a source is a new file at each sync; a row that has not changed is the same row in all.
                told = _meta({key: value for key, value in rest.items() if key != ORIGIN})
                row_id = make_row_id(origin[0], origin[1], content + told + row.id)
            else:
                row_id = make_row_id(source_sha256, str(line), content + meta + row.id)
        except UnicodeEncodeError as exc:
            raise BadRow(
                "invalid_unicode", "a string has half of a surrogate pair (\\ud800 to \\udfff)"
            ) from exc
        if "\\u0000" in content or "\\u0000" in meta:
            _refuse_nul(row)
        return Row(row_id, line, row.id, messages, text, row.label, meta, source)

    return make


def _origin(rest: Mapping[str, Any]) -> tuple[str, str]:
    """(source, key) of a row of a source's state; empty texts of any other."""
    found = rest.get(ORIGIN)
    if not isinstance(found, dict):
        return "", ""
    source, key = found.get("source"), found.get("key")
    return (source, key) if isinstance(source, str) and isinstance(key, str) and source and key else ("", "")


def _string(record: Record, column: str) -> str:
    value = record.get(column)
    if value is None:
        raise BadRow("missing_field", f"column `{column}` is missing or null")
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"column `{column}` must be a string, not {_kind(value)}")
    return value


def _scalar(record: Record, column: str) -> str | None:
    """Ids and labels are often numbers; they are kept as their digits."""
    value = record.get(column)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise BadRow("wrong_type", f"column `{column}` must be a string or a whole number, not {_kind(value)}")


def _conversation(record: Record, mapping: InputMapping) -> tuple[tuple[Message, ...], list[dict[str, Any]]]:
    """The messages, and the fields of each that a message of ours has no place for (empty when none has any)."""
    column = mapping.messages
    assert column is not None
    turns = record.get(column)
    if turns is None:
        raise BadRow("missing_field", f"column `{column}` is missing or null")
    if isinstance(turns, str):
        turns = _cell(turns, column)
    if not isinstance(turns, list):
        raise BadRow("wrong_type", f"column `{column}` must be a list of messages, not {_kind(turns)}")
    if len(turns) > MAX_MESSAGES:
        raise BadRow("too_many_messages", f"{len(turns)} messages, at most {MAX_MESSAGES} are allowed")
    role_field, content_field, roles = mapping.role_field, mapping.content_field, mapping.roles
    messages: list[Message] = []
    extra: list[dict[str, Any]] = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            raise BadRow("wrong_type", f"message {number} of `{column}` must be an object, not {_kind(turn)}")
        if content_field not in turn:
            raise BadRow("missing_field", f"message {number} of `{column}` has no `{content_field}`")
        role, content = turn.get(role_field), turn[content_field]
        for name, value in ((role_field, role), (content_field, content)):
            if value is not None and not isinstance(value, str):
                kind = _kind(value)
                raise BadRow("wrong_type", f"`{name}` of message {number} must be a string, not {kind}")
        messages.append(Message(str(roles.get(role, role)) if role else "", content or ""))
        extra.append(
            {k: v for k, v in turn.items() if k not in (role_field, content_field) and v is not None}
        )
    return tuple(messages), extra if any(extra) else []


def _cell(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BadRow("wrong_type", f"column `{column}` must be a JSON list of messages") from exc


def _meta(rest: dict[str, Any]) -> str:
    """Canonical JSON of the other columns, with Parquet's richer values as text."""
    if any(isinstance(value, (dict, list)) for value in rest.values()):
        _check_depth(rest)
    try:
        return _encode(rest)
    except ValueError as exc:
        raise BadRow("not_finite", "a number is NaN or infinite; JSON knows neither") from exc
    except (RecursionError, TypeError) as exc:
        raise BadRow("wrong_type", f"a column cannot be written as JSON: {exc}") from exc


def _plain(value: object) -> object:
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta, uuid.UUID)):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"a value of type {type(value).__name__}")


_encode = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain
).encode


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise BadRow("too_deep", f"nested deeper than {MAX_DEPTH} levels")


def _refuse_nul(row: Row) -> None:
    if any("\x00" in text for text in (*row.texts(), row.label or "", row.id)) or _nul_in_meta(row.meta):
        raise BadRow("nul_character", "a string has a NUL character (U+0000)")


def _nul_in_meta(meta: str) -> bool:
    """`\\u0000` in JSON is a NUL unless its backslash is itself escaped."""
    return re.search(r"(?<!\\)(?:\\\\)*\\u0000", meta) is not None


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float, decimal.Decimal)):
        return (
            "a number" if not (isinstance(value, float) and not math.isfinite(value)) else "NaN or infinity"
        )
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list) else "null" if value is None else type(value).__name__
