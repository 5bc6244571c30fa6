"""What is said of a body that does not fit: one sentence, with the place as the caller wrote it. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], raw: bytes, parsed: Mapping[str, Any]) -> M:
    """The body as `model`; raises InvalidInput naming the first place at fault."""
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as exc:
        raise translate(exc, parsed, model) from exc


def translate(exc: ValidationError, parsed: Any, model: type[BaseModel]) -> InvalidInput:
    """pydantic's first complaint in one sentence, with the place as the caller wrote it."""
    errors = exc.errors(include_url=False)
    # In a union the branch that went deepest is the one that was meant.
    first = max(errors, key=lambda e: (len(_place(e, parsed)), e["type"] != "literal_error"))
    param = dotted(_place(first, parsed))
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), _names(model), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return InvalidInput(f"unknown parameter {param!r}{hint}", code="unknown_parameter", param=param)
    if first["type"].startswith("union_tag"):
        tag = first["ctx"]["discriminator"].strip("'")
        param = ".".join(filter(None, (param, tag)))
        kinds = first["ctx"].get("expected_tags") or ", ".join(repr(one) for one in _tags(model))
        if tag not in (first["input"] if isinstance(first["input"], dict) else {}):
            return InvalidInput(
                f"missing required parameter {param!r}; it is one of {kinds}",
                code="missing_required_parameter",
                param=param,
            )
        return InvalidInput(f"{param} is {short(first['input'][tag])}; it is one of {kinds}", param=param)
    if first["type"] == "missing":
        return InvalidInput(
            f"missing required parameter {param!r}", code="missing_required_parameter", param=param
        )
    message = first["msg"].removeprefix("Value error, ")
    return InvalidInput(f"{param or 'body'}: {message}, got {short(first['input'])}", param=param or "body")


def _place(error: ErrorDetails, parsed: Any) -> tuple[str | int, ...]:
    """The parts of pydantic's location that stand in the body: it names the branches of unions too.

    A branch may be named like a field beside it, so the longest way through the body is taken.
    """
    parts, missing = error["loc"], error["type"] == "missing"
    ways: dict[tuple[int, int], tuple[str | int, ...]] = {}

    def way(index: int, value: Any) -> tuple[str | int, ...]:
        if index == len(parts):
            return ()
        key = (index, id(value))
        if key not in ways:
            without, part = way(index + 1, value), parts[index]
            if isinstance(value, dict) and isinstance(part, str):
                stands = part in value or (missing and index == len(parts) - 1)
                inner = value.get(part)
            else:
                stands = isinstance(value, list) and isinstance(part, int) and part < len(value)
                inner = value[part] if stands else None
            within = (part, *way(index + 1, inner)) if stands else ()
            ways[key] = within if stands and len(within) >= len(without) else without
        return ways[key]

    return way(0, parsed)


def dotted(place: tuple[str | int, ...]) -> str:
    """`("messages", 0, "content")` -> `messages[0].content`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:80]}" if text else part[:80]
    return text


def _tags(model: type[BaseModel]) -> list[str]:
    """What the union that a body of this model is goes by."""
    return list(model.model_json_schema().get("discriminator", {}).get("mapping", {}))


@cache
def _names(model: type[BaseModel]) -> list[str]:
    """Every field name that a body of this model may hold at any depth."""
    schema = model.model_json_schema()
    objects = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for one in objects for name in one.get("properties", {})})


def short(value: Any) -> str:
    """A value for an error message, of 80 characters at most."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
