"""How far people agree: kappa of two, alpha of many or with gaps, F1 of spans. Knows no project.

Sources: Cohen 1960; Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), nominal data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from shared.contracts.label_values import similarity, vote

Value = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """One blind label: whose, of which item."""

    item: str
    labeller: str
    value: Value


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """(observed - expected) / (1 - expected) of two people's votes on the same items.

    None where it is not defined: for no items, and where both gave one and the same label to everything.
    """
    if not pairs:
        return None
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    left, right = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    expected = sum(left[label] * right[label] for label in left) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def krippendorff_alpha(units: Iterable[Sequence[str]]) -> float | None:
    """1 - observed / expected disagreement over the votes of each item; an item with one vote says nothing.

    None where it is not defined: where no item has two votes, or all votes are the same.
    """
    coincidences: defaultdict[tuple[str, str], float] = defaultdict(float)
    for votes in units:
        if len(votes) < 2:
            continue
        counts = Counter(votes)
        for one in counts:
            for two in counts:
                paired = counts[one] * (counts[two] - (one == two))
                coincidences[one, two] += paired / (len(votes) - 1)
    totals: defaultdict[str, float] = defaultdict(float)
    for (one, _), weight in coincidences.items():
        totals[one] += weight
    n = sum(totals.values())
    expected = n**2 - sum(total**2 for total in totals.values())
    if expected <= 0:
        return None
    observed = sum(weight for (one, two), weight in coincidences.items() if one != two)
    return 1 - (n - 1) * observed / expected


def pooled_span_f1(pairs: Sequence[tuple[Sequence[Value], Sequence[Value]]]) -> float | None:
    """2 x spans that both have / spans of both, over all items; None where nobody marked anything."""
    both = total = 0
    for left, right in pairs:
        one, two = ({(s["start"], s["end"], s["label"]) for s in spans} for spans in (left, right))
        both += len(one & two)
        total += len(one) + len(two)
    return 2 * both / total if total else None


def summary(given: Sequence[Given], gold: Mapping[str, Value], task: str) -> dict[str, Any]:
    """What the labels say of the project, of each pair of labellers, and of each labeller on items known in `gold`."""
    items = _by_item(given)
    shared = [labels for labels in items.values() if len(labels) > 1]
    measure, value = _of_project(shared, {one.labeller for one in given}, len(items), task)
    observed = [similarity(a, b) for labels in shared for a, b in combinations(labels.values(), 2)]
    return {
        "measure": measure,
        "value": value,
        "observed": _mean(observed),
        "items": len(shared),
        "labels": len(given),
        "pairs": _pairs(shared, task),
        "gold": _on_gold(given, gold),
    }


def _of_project(
    shared: Sequence[Mapping[str, Value]], labellers: set[str], items: int, task: str
) -> tuple[str, float | None]:
    if task == "spans":
        pairs = [(a["spans"], b["spans"]) for labels in shared for a, b in combinations(labels.values(), 2)]
        return "span_f1", pooled_span_f1(pairs)
    if task in ("answer", "text"):
        return "similarity", _mean(
            [similarity(a, b) for labels in shared for a, b in combinations(labels.values(), 2)]
        )
    if len(labellers) == 2 and len(shared) == items:
        one, two = sorted(labellers)
        return "cohen_kappa", cohen_kappa([(vote(labels[one]), vote(labels[two])) for labels in shared])
    return "krippendorff_alpha", krippendorff_alpha(
        [[vote(value) for value in labels.values()] for labels in shared]
    )


def _pairs(shared: Sequence[Mapping[str, Value]], task: str) -> list[dict[str, Any]]:
    """Of everybody with everybody, over the items that both labelled."""
    met: defaultdict[tuple[str, str], list[tuple[Value, Value]]] = defaultdict(list)
    for labels in shared:
        for one, two in combinations(sorted(labels), 2):
            met[one, two].append((labels[one], labels[two]))
    return [
        {
            "labellers": [one, two],
            "items": len(both),
            "observed": _mean([similarity(a, b) for a, b in both]),
            **_measured(both, task),
        }
        for (one, two), both in sorted(met.items())
    ]


def _measured(both: Sequence[tuple[Value, Value]], task: str) -> dict[str, float | None]:
    if task == "spans":
        return {"span_f1": pooled_span_f1([(a["spans"], b["spans"]) for a, b in both])}
    if task in ("answer", "text"):
        return {}
    return {"cohen_kappa": cohen_kappa([(vote(a), vote(b)) for a, b in both])}


def _on_gold(given: Sequence[Given], gold: Mapping[str, Value]) -> list[dict[str, Any]]:
    right: defaultdict[str, list[float]] = defaultdict(list)
    for one in given:
        if one.item in gold:
            right[one.labeller].append(similarity(one.value, gold[one.item]))
    return [
        {"labeller": labeller, "items": len(scores), "accuracy": _mean(scores)}
        for labeller, scores in sorted(right.items())
    ]


def _by_item(given: Sequence[Given]) -> dict[str, dict[str, Value]]:
    items: dict[str, dict[str, Value]] = {}
    for one in given:
        items.setdefault(one.item, {})[one.labeller] = one.value
    return items


def _mean(numbers: Sequence[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None
