"""Labelling functions: each says a label of an item or abstains; weighed against each other. Knows no person's label
but to tell how far a function agrees with it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.data_governance.labelling.dawid_skene import fit
from services.data_governance.labelling.items import text_of
from shared.contracts.labelling import Answers, FieldValue, Function, Keyword, Length, Regex
from shared.text.patterns import Patterns

Says = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True)
class Weak:
    """What functions together say of each item: `label` and its probability, or None where all abstain."""

    labels: list[tuple[str, float] | None]
    told: list[dict[str, Any]]
    covered: int
    conflicting: int


def compiled(function: Function, answers: Mapping[str, str]) -> Says:
    """The function of an item (`row_id`, `data`, `extra`). `answers` are by row id, for those of a model."""
    if isinstance(function, Answers):
        return lambda item: answers.get(item["row_id"])
    test = _test(function)
    return lambda item: function.label if test(item) else None


def _test(function: Keyword | Regex | Length | FieldValue) -> Callable[[Mapping[str, Any]], bool]:
    if isinstance(function, Keyword):
        words = tuple(filter(None, map(_folded, function.any)))
        return lambda item: any(word in _folded(text_of(item["data"])) for word in words)
    if isinstance(function, Regex):
        patterns = Patterns([function.pattern])
        return lambda item: patterns.first(text_of(item["data"])) is not None
    if isinstance(function, Length):
        return lambda item: function.at_least <= len(text_of(item["data"])) <= function.at_most
    values = frozenset(function.values)
    return lambda item: str(item["extra"].get(function.field)) in values


def weigh(
    functions: Sequence[tuple[str, Says]],
    items: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    known: Mapping[str, str],
) -> Weak:
    """Apply named functions to items. `known` are people's labels by item id, to tell each function's accuracy."""
    numbers = {label: number for number, label in enumerate(labels)}
    votes = [
        (at, number, numbers[said])
        for at, item in enumerate(items)
        for number, (_, says) in enumerate(functions)
        if (said := says(item)) in numbers
    ]
    by_item: dict[int, list[tuple[int, int]]] = {}
    for at, number, label in votes:
        by_item.setdefault(at, []).append((number, label))
    found: list[tuple[str, float] | None] = [None] * len(items)
    if votes:
        fitted = fit(votes, items=len(items), voters=len(functions), labels=len(labels), one_coin=True)
        for at in by_item:
            best = int(fitted.posteriors[at].argmax())
            found[at] = (labels[best], float(fitted.posteriors[at, best]))
    told = [_told(name, number, by_item, items, labels, known) for number, (name, _) in enumerate(functions)]
    conflicting = sum(len({said for _, said in each}) > 1 for each in by_item.values())
    return Weak(found, told, len(by_item), conflicting)


def _told(
    name: str,
    number: int,
    by_item: Mapping[int, Sequence[tuple[int, int]]],
    items: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    known: Mapping[str, str],
) -> dict[str, Any]:
    """Shares of all items that the function labels, labels beside another, and labels unlike another."""
    covered = overlaps = conflicts = 0
    right: list[bool] = []
    for at, each in by_item.items():
        own = dict(each).get(number)
        if own is None:
            continue
        covered += 1
        overlaps += len(each) > 1
        conflicts += any(said != own for _, said in each)
        if (person := known.get(items[at]["id"])) is not None:
            right.append(labels[own] == person)
    total = max(1, len(items))
    return {
        "name": name,
        "coverage": covered / total,
        "overlap": overlaps / total,
        "conflict": conflicts / total,
        "accuracy": sum(right) / len(right) if right else None,
        "compared": len(right),
    }


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
