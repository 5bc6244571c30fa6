"""What a model said of items, from a file: a batch's output, or plain lines. Knows no project's database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shared.errors import InvalidInput


def labels_by_row(path: Path, choices: Sequence[str], place: str) -> dict[str, str]:
    """Label by row id; what is none of `choices` (compared without case) is left out. Raises InvalidInput."""
    names = {choice.casefold(): choice for choice in choices}
    found = {}
    for number, line in _objects(path, place):
        label = names.get(_label(line).strip().casefold())
        if label is not None:
            found[_row_id(line, number, place)] = label
    return found


def probabilities_by_row(path: Path, choices: Sequence[str], place: str) -> dict[str, list[float]]:
    """Probabilities of `choices` in their order by row id, each row's made to sum to 1. Raises InvalidInput."""
    found = {}
    for number, line in _objects(path, place):
        given = line.get("probabilities")
        if not isinstance(given, dict) or not given or not set(given) <= set(choices):
            raise InvalidInput(
                f'{place}: line {number} needs "probabilities": {{label: number}} over {", ".join(choices[:20])}',
                param=place,
            )
        numbers = [given.get(choice, 0.0) for choice in choices]
        if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in numbers) or sum(numbers) <= 0:
            raise InvalidInput(
                f"{place}: line {number} has probabilities that are not from 0 to 1", param=place
            )
        found[_row_id(line, number, place)] = [one / sum(numbers) for one in numbers]
    return found


def _objects(path: Path, place: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            if not raw.strip():
                continue
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError) as exc:
                raise InvalidInput(
                    f"{place}: line {number} is not JSON", code="not_json", param=place
                ) from exc
            if not isinstance(line, dict):
                raise InvalidInput(f"{place}: line {number} must be an object", param=place)
            yield number, line


def _row_id(line: dict[str, Any], number: int, place: str) -> str:
    found = line.get("custom_id", line.get("id"))
    if not isinstance(found, str):
        raise InvalidInput(f"{place}: line {number} names no row in `custom_id` or `id`", param=place)
    return found


def _label(line: dict[str, Any]) -> str:
    """The label of a plain line, a head's of a batch, or all that a model answered."""
    body = _at(line, "response", "body")
    for found in (
        line.get("label"),
        _at(body, "data", 0, "label"),
        _at(body, "choices", 0, "message", "content"),
        _at(body, "choices", 0, "text"),
    ):
        if isinstance(found, str):
            return found
    return ""


def _at(value: Any, *path: str | int) -> Any:
    """The value at a path of keys and places; None where there is none."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value
