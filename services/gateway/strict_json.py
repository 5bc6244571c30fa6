"""JSON of a client, read strictly: what is ambiguous, or what Postgres cannot hold, is refused by its place."""

from __future__ import annotations

import json
import math
from typing import Any

from services.gateway.complaints import dotted
from shared.contracts.json_size import MAX_VALUES, too_many_values
from shared.errors import InvalidInput

MAX_DEPTH = 64


def strict_json(raw: bytes, most_values: int = MAX_VALUES) -> Any:
    """Parse UTF-8 JSON without NaN, infinities, repeated keys, NUL characters, deep nesting or too many values."""
    if too_many_values(raw, most_values):
        raise InvalidInput(f"the body holds more than {most_values} values", param="body")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidInput(
            f"the body is not UTF-8: byte {exc.start} is 0x{raw[exc.start]:02x}",
            code="invalid_encoding",
            param="body",
        ) from exc
    if not text.strip():
        raise InvalidInput("the body is empty; send a JSON object", param="body")
    try:
        parsed = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except RecursionError as exc:
        raise InvalidInput(f"the body is nested deeper than {MAX_DEPTH} levels", param="body") from exc
    except json.JSONDecodeError as exc:
        raise InvalidInput(
            f"the body is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}",
            code="invalid_json",
            param="body",
        ) from exc
    except ValueError as exc:
        # A whole number of more digits than Python converts.
        raise InvalidInput(f"the body holds a number that is too long: {exc}", param="body") from exc
    _check_values(parsed)
    return parsed


def _refuse_constant(name: str) -> Any:
    raise InvalidInput(f"{name} is not a JSON value", code="invalid_json", param="body")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidInput(f"the number {text[:40]} is too large", code="invalid_json", param="body")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidInput(
                f"the key {key[:80]!r} stands twice in one object", code="invalid_json", param=key[:80]
            )
        found[key] = value
    return found


def _check_values(parsed: Any) -> None:
    """Refuse what Postgres cannot hold (NUL, lone surrogates), and nesting beyond MAX_DEPTH."""
    stack: list[tuple[Any, tuple[str | int, ...]]] = [(parsed, ())]
    while stack:
        value, place = stack.pop()
        if len(place) > MAX_DEPTH:
            raise InvalidInput(f"the body is nested deeper than {MAX_DEPTH} levels", param=dotted(place[:4]))
        if isinstance(value, str):
            _check_text(value, place)
        elif isinstance(value, dict):
            for key, inner in value.items():
                _check_text(key, place)
                stack.append((inner, (*place, key)))
        elif isinstance(value, list):
            stack.extend((inner, (*place, index)) for index, inner in enumerate(value))


def _check_text(text: str, place: tuple[str | int, ...]) -> None:
    if "\x00" in text:
        raise InvalidInput("a string holds a NUL character", param=dotted(place) or "body")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidInput("a string holds half of a surrogate pair", param=dotted(place) or "body") from exc
