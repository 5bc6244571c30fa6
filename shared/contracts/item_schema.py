"""The JSON schema of an eval's items: the keywords that are served, and what an item does not keep. Pure.

A part of JSON Schema 2020-12 (https://json-schema.org): types, objects, arrays, bounds, enum, const and the three
combinations. No references, so that no schema can run away.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from shared.errors import InvalidInput

MAX_DEPTH = 16
# What a value of an item may be held against: schemas, and the values of their enums.
MAX_SCHEMAS, MAX_ENUM = 500, 10_000
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: (
        not isinstance(v, bool) and (isinstance(v, int) or (isinstance(v, float) and v.is_integer()))
    ),
}
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
COMBINED = ("anyOf", "oneOf", "allOf")
TOLD = (
    "title",
    "description",
    "default",
    "examples",
    "$schema",
    "$id",
    "format",
    "deprecated",
    "strict",
    "name",
)
KNOWN = (
    *(
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "not",
        "uniqueItems",
    ),
    *NUMBERS,
    *COUNTS,
    *COMBINED,
    *TOLD,
)


def check_schema(schema: Any, place: str, depth: int = 0) -> None:
    """Raise InvalidInput, with the place, for what is no schema or uses a keyword that is not served."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise InvalidInput(f"{place} must be a JSON schema, an object", param=place)
    if depth > MAX_DEPTH:
        raise InvalidInput(f"{place} is nested deeper than {MAX_DEPTH} levels", param=place)
    for key in schema:
        if key not in KNOWN:
            near = difflib.get_close_matches(key, KNOWN, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; served are {', '.join(KNOWN)}"
            raise InvalidInput(
                f"{place} has the keyword {key[:80]!r}, which is not served{hint}", param=place
            )
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in TYPES:
            raise InvalidInput(
                f"{place}.type is {str(kind)[:80]!r}; it is one of {', '.join(TYPES)}", param=f"{place}.type"
            )
    _check_shapes(schema, place)
    for where, part in _parts(schema):
        check_schema(part, f"{place}.{where}", depth + 1)
    if depth == 0:
        _check_size(schema, place)


def _check_size(schema: Mapping[str, Any], place: str) -> None:
    schemas, values, left = 0, 0, [schema]
    while left:
        one = left.pop()
        schemas += 1
        if isinstance(one, dict):
            values += len(one.get("enum", ()))
            left.extend(part for _, part in _parts(one))
    if schemas > MAX_SCHEMAS or values > MAX_ENUM:
        raise InvalidInput(
            f"{place} has {schemas} schemas and {values} values in enums; it has {MAX_SCHEMAS} and {MAX_ENUM} at most",
            param=place,
        )


def _check_shapes(schema: Mapping[str, Any], place: str) -> None:
    wanted: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
        (("properties",), TYPES["object"], "an object"),
        (("enum",), lambda v: isinstance(v, list) and bool(v), "a list of one value or more"),
        (
            ("required",),
            lambda v: isinstance(v, list) and all(isinstance(k, str) for k in v),
            "a list of names",
        ),
        (NUMBERS, TYPES["number"], "a number"),
        (COUNTS, lambda v: TYPES["integer"](v) and v >= 0, "a whole number from 0"),
        (COMBINED, lambda v: isinstance(v, list) and bool(v), "a list of one schema or more"),
    )
    for names, fits, what in wanted:
        for name in names:
            if name in schema and not fits(schema[name]):
                raise InvalidInput(f"{place}.{name} must be {what}", param=f"{place}.{name}")


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, part in schema.get("properties", {}).items():
        yield f"properties.{name}", part
    for name in ("items", "additionalProperties", "not"):
        if name in schema:
            yield name, schema[name]
    for name in COMBINED:
        for index, part in enumerate(schema.get(name, [])):
            yield f"{name}[{index}]", part


def fields_of(schema: Mapping[str, Any]) -> tuple[list[str] | None, bool]:
    """(the fields that the schema names, whether an item may have others that a template uses)."""
    properties = schema.get("properties")
    if not properties:
        return None, True
    return list(properties), bool(schema.get("additionalProperties", False))


def misfit(schema: Any, value: Any, place: str = "item") -> str | None:
    """What is wrong with a value, in one sentence with the place; None where it fits a checked schema."""
    return next(_misfits(schema, value, place), None)


def _misfits(schema: Any, value: Any, place: str) -> Iterator[str]:
    if isinstance(schema, bool):
        if not schema:
            yield f"{place} is not allowed by the schema"
        return
    kinds = schema.get("type")
    named = kinds if isinstance(kinds, list) else [kinds]
    if kinds is not None and not any(TYPES[kind](value) for kind in named):
        yield f"{place} must be of the type {' or '.join(named)}, got {_short(value)}"
        return
    if "enum" in schema and not (
        # The first look is quick, and takes True for 1.
        value in schema["enum"] and any(_same(value, one) for one in schema["enum"] if value == one)
    ):
        yield f"{place} must be one of {_short(schema['enum'])}, got {_short(value)}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{place} must be {_short(schema['const'])}, got {_short(value)}"
    if TYPES["number"](value):
        yield from _bounds(schema, value, place)
    elif isinstance(value, str):
        yield from _sizes(schema, len(value), "Length", "characters", place)
    elif isinstance(value, list):
        yield from _sizes(schema, len(value), "Items", "items", place)
        for index, one in enumerate(value):
            yield from _misfits(schema.get("items", True), one, f"{place}[{index}]")
    elif isinstance(value, dict):
        yield from _object(schema, value, place)
    yield from _combinations(schema, value, place)


def _bounds(schema: Mapping[str, Any], value: float, place: str) -> Iterator[str]:
    compared: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
        ("minimum", operator.lt, "at least"),
        ("maximum", operator.gt, "at most"),
        ("exclusiveMinimum", operator.le, "over"),
        ("exclusiveMaximum", operator.ge, "under"),
    )
    for name, broken, words in compared:
        if name in schema and broken(value, schema[name]):
            yield f"{place} must be {words} {schema[name]}, got {value}"


def _sizes(schema: Mapping[str, Any], size: int, what: str, words: str, place: str) -> Iterator[str]:
    if size < schema.get(f"min{what}", 0):
        yield f"{place} has {size} {words}; it has {schema[f'min{what}']} at least"
    if size > schema.get(f"max{what}", size):
        yield f"{place} has {size} {words}; it has {schema[f'max{what}']} at most"


def _object(schema: Mapping[str, Any], value: Mapping[str, Any], place: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            there = ", ".join(list(value)[:12]) or "nothing"
            yield f"{place}.{name} is missing; there is {there}"
    yield from _sizes(schema, len(value), "Properties", "fields", place)
    for name, one in value.items():
        if name in properties:
            yield from _misfits(properties[name], one, f"{place}.{name}")
        elif schema.get("additionalProperties") is False:
            near = difflib.get_close_matches(name, properties, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"{place}.{name[:80]} is not in the schema{hint}"
        else:
            yield from _misfits(schema.get("additionalProperties", True), one, f"{place}.{name[:80]}")


def _combinations(schema: Mapping[str, Any], value: Any, place: str) -> Iterator[str]:
    for part in schema.get("allOf", []):
        yield from _misfits(part, value, place)
    for name in ("anyOf", "oneOf"):
        if name in schema:
            fitting = sum(misfit(part, value, place) is None for part in schema[name])
            if fitting == 0 or (name == "oneOf" and fitting > 1):
                yield f"{place} fits {fitting} of the schemas of {name}, got {_short(value)}"
    if "not" in schema and misfit(schema["not"], value, place) is None:
        yield f"{place} is what the schema rules out, got {_short(value)}"


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and no true."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
