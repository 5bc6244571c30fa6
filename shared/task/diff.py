"""What is different between two versions of a task. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any


def diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a place: {"place", "change": added|removed|changed, "before", "after"}, and for texts of several
    lines "lines", a unified diff."""
    return list(_changes(before, after, ""))


def _changes(before: Any, after: Any, place: str) -> Iterator[dict[str, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inner = f"{place}.{name}" if place else name
            yield from _changes(before.get(name), after.get(name), inner)
        return
    if before == after and type(before) is type(after):
        return
    entry = {"place": place, "change": _kind(before, after), "before": before, "after": after}
    if isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        entry["lines"] = list(
            difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="")
        )
    yield entry


def _kind(before: Any, after: Any) -> str:
    return "added" if before is None else "removed" if after is None else "changed"
