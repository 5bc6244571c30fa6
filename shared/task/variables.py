"""Values of a task's variables: those of a caller, and the defaults of a declaration. Pure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from shared.contracts.decoding import check_text, short
from shared.contracts.task import Variable
from shared.errors import InvalidInput

DEFAULT_LENGTH = 20_000
DEFAULT_ITEMS = 100
NAMES = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "list": "a list of strings",
    "enum": "a string",
}


def values(
    declared: Mapping[str, Variable], given: Mapping[str, Any], place: str = "variables"
) -> dict[str, Any]:
    """A value for each declared variable. Raises InvalidInput for one that is unknown, missing or of a wrong type."""
    for name in given:
        if name not in declared:
            near = difflib.get_close_matches(str(name), declared, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(declared) or 'none'}"
            raise InvalidInput(
                f"no variable is called {short(name)}; {hint}",
                code="unknown_parameter",
                param=f"{place}.{str(name)[:80]}",
            )
    found = {}
    for name, variable in declared.items():
        value = given.get(name)
        if value is None:
            if variable.needed:
                raise InvalidInput(
                    f"the variable {name!r} is missing; it is {NAMES[variable.type]}",
                    code="missing_required_parameter",
                    param=f"{place}.{name}",
                )
            found[name] = variable.default
        else:
            found[name] = checked(variable, value, f"{place}.{name}")
    return found


def checked(variable: Variable, value: Any, place: str) -> Any:
    """The value, if it is what the variable declares. Raises InvalidInput that names the place."""
    if not _of_type(variable.type, value):
        raise InvalidInput(f"{place} must be {NAMES[variable.type]}, got {short(value)}", param=place)
    if variable.type in ("string", "list", "enum"):
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            check_text(text, place)
            _check_length(text, variable.max_length or DEFAULT_LENGTH, place)
    most = variable.max_items or DEFAULT_ITEMS
    if isinstance(value, list) and len(value) > most:
        raise InvalidInput(f"{place} has {len(value)} items; it takes {most} at most", param=place)
    if variable.values is not None and value not in variable.values:
        near = difflib.get_close_matches(value, variable.values, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InvalidInput(
            f"{place} must be one of {', '.join(variable.values)}, got {short(value)}{hint}", param=place
        )
    if variable.minimum is not None and value < variable.minimum:
        raise InvalidInput(f"{place} must be {variable.minimum:g} or more, got {short(value)}", param=place)
    if variable.maximum is not None and value > variable.maximum:
        raise InvalidInput(f"{place} must be {variable.maximum:g} or less, got {short(value)}", param=place)
    return value


def _of_type(kind: str, value: Any) -> bool:
    match kind:
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        case "number":
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            return numeric and math.isfinite(value) and abs(value) < 1e15
        case "list":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, str)


def _check_length(text: str, most: int, place: str) -> None:
    if len(text) > most:
        raise InvalidInput(f"{place} has {len(text)} characters; it takes {most} at most", param=place)
