"""From `--set name=value` on a command line to the typed values that a task declares. Pure but for `@FILE`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import InvalidInput

WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def values(declared: Mapping[str, Mapping[str, Any]], sets: Sequence[str]) -> dict[str, Any]:
    """{name: value} by the declared types. Raises InvalidInput that says which word was wrong."""
    found: dict[str, Any] = {}
    for word in sets:
        name, equals, given = word.partition("=")
        if not equals:
            raise InvalidInput(f"--set {word!r} is no NAME=VALUE", param=name)
        if name not in declared:
            near = difflib.get_close_matches(name, declared, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(declared) or 'none'}"
            raise InvalidInput(f"no variable is called {name!r}; {hint}", param=name)
        kind = str(declared[name].get("type", "string"))
        value = _typed(kind, name, _content(given))
        if kind == "list":
            found[name] = [*found.get(name, []), *value]
        elif name in found:
            raise InvalidInput(f"--set {name}=... stands twice", param=name)
        else:
            found[name] = value
    return found


def _content(given: str) -> str:
    """The text of a file for `@FILE`; `@@x` is the text `@x`."""
    if given.startswith("@@") or not given.startswith("@"):
        return given.removeprefix("@") if given.startswith("@@") else given
    path = Path(given[1:])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path} cannot be read as text: {exc}") from exc


def _typed(kind: str, name: str, given: str) -> Any:
    try:
        match kind:
            case "integer":
                return int(given)
            case "number":
                return float(given)
            case "boolean":
                return WORDS[given.lower()]
            case "list":
                return _items(given)
    except (ValueError, KeyError) as exc:
        wanted = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}
        raise InvalidInput(
            f"--set {name}={given[:80]!r} is not {wanted.get(kind, 'a list of strings in JSON')}", param=name
        ) from exc
    return given


def _items(given: str) -> list[str]:
    """One item, or several as a JSON list."""
    if not given.startswith("["):
        return [given]
    found = json.loads(given)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError("not strings")
    return found
