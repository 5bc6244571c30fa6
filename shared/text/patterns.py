"""Regular expressions of a tenant's own that cannot run away, over texts that are still growing. Pure.

The matching is RE2's kind (Rust's `regex`, which pydantic brings): linear in the text, no look-around, no references.
A pattern has a bounded length, so a stream knows how much of its end may still become a match.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from shared.errors import InvalidInput

MAX_WIDTH = 256
# Characters and classes, with every repeat written out, and a class like \w as many: it bounds time and memory for
# each character of a text.
MAX_SIZE = 512
MAX_SIZE_TOGETHER = 1024
CATEGORY = 8


class Patterns:
    """Some patterns, compiled. `width` is the longest match that any of them may have."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.width = max((_width(pattern) for pattern in patterns), default=0)
        self._whole = [_compile(pattern) for pattern in patterns]
        # With one more character behind it: only then is it sure that `\\b` held and that no other end is meant.
        self._followed = [_compile(f"(?:{pattern})(?s:.)") for pattern in patterns]

    def first(self, text: str, *, growing: bool = False) -> int | None:
        """The number, from 0, of the first pattern with a match; of a `growing` text only before its last character."""
        for number, search in enumerate(self._followed if growing else self._whole):
            if _found(search, text):
                return number
        return None


def check_patterns(patterns: Sequence[str], place: str) -> None:
    """Raise InvalidInput for patterns that are wrong, or too much together."""
    for index, pattern in enumerate(patterns):
        check_pattern(pattern, f"{place}[{index}]")
    together = sum(_size(_parser.parse(pattern)) for pattern in patterns)
    if together > MAX_SIZE_TOGETHER:
        raise _refused(
            f"come to {together} characters together with their repeats written out (\\w, \\d and \\s as "
            f"{CATEGORY}); {MAX_SIZE_TOGETHER} are the most",
            place,
        )


def check_pattern(pattern: str, place: str) -> None:
    """Raise InvalidInput for what is no pattern, or none that is safe and bounded."""
    try:
        tree = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError, ValueError) as exc:
        raise _refused(f"is no regular expression: {exc}", place) from exc
    shortest, longest = tree.getwidth()
    if shortest == 0:
        raise _refused("matches the empty text, and so every text", place)
    if longest > MAX_WIDTH:
        raise _refused(
            f"may match more than {MAX_WIDTH} characters; write {{0,20}} for * and {{1,20}} for +", place
        )
    if any(_anchors(tree)):
        raise _refused("may not hold ^, $, \\A or \\Z: it is looked for anywhere in a text", place)
    if _size(tree) > MAX_SIZE:
        raise _refused(
            f"comes to more than {MAX_SIZE} characters with its repeats written out (\\w, \\d and \\s as {CATEGORY})",
            place,
        )
    try:
        _compile(pattern)
        _compile(f"(?:{pattern})(?s:.)")
    except SchemaError as exc:
        reason = str(exc).replace("\n", " ").partition("SchemaError: ")[2][:200]
        raise _refused(
            f"is refused (look-around and back references are not served): {reason}", place
        ) from exc


def _refused(what: str, place: str) -> InvalidInput:
    return InvalidInput(f"{place} {what}", code="invalid_pattern", param=place)


def _compile(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _found(search: SchemaValidator, text: str) -> bool:
    try:
        search.validate_python(text)
    except ValidationError:
        return False
    return True


def _width(pattern: str) -> int:
    return int(_parser.parse(pattern).getwidth()[1])


def _parts(value: Any) -> Iterator[Any]:
    """Every sub-pattern that stands in the arguments of a node of the parse tree."""
    if isinstance(value, _parser.SubPattern):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)


def _anchors(tree: Any) -> Iterator[bool]:
    for kind, arguments in tree:
        if str(kind) == "AT":
            yield "BOUNDARY" not in str(arguments)
        for part in _parts(arguments):
            yield from _anchors(part)


def _size(tree: Any) -> int:
    total = 0
    for kind, arguments in tree:
        times = int(arguments[1]) if str(kind).endswith("REPEAT") else 1
        inner = sum(_size(part) for part in _parts(arguments))
        if str(kind) == "IN" and any(str(item) == "CATEGORY" for item, _ in arguments):
            inner = CATEGORY
        total += times * max(1, inner)
        if total > MAX_SIZE:
            return total
    return total
