"""Two runs of an eval on the same items: the difference, how sure it is, and the same by criterion and slice. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from services.gateway.shapes import Row, Shape
from shared.statistics import mcnemar, paired

MIN_ITEMS = 30
MOST_VALUES = 50
# A difference is told to three digits with fewer draws the more items there are.
RESAMPLES, RESAMPLES_OF_MANY, MANY = 2000, 500, 5000

Pair = tuple[Row, Row]


def compare(a: Sequence[Row], b: Sequence[Row], min_items: int = MIN_ITEMS) -> Shape:
    """`a` is what b is held against; rows as `evals_repository.scores` has them, paired by item_key."""
    others = {row["item_key"]: row for row in b}
    pairs = [(row, others[row["item_key"]]) for row in a if row["item_key"] in others]
    places: dict[str, dict[str, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        for name, value in pair[0]["slices"].items():
            places[name][value].append(pair)
    criteria = sorted({name for one, _ in pairs for name in one["scores"]})
    return {
        "items": {"paired": len(pairs), "only_in_a": len(a) - len(pairs), "only_in_b": len(b) - len(pairs)},
        "min_items": min_items,
        **_measured(pairs, min_items),
        "criteria": {name: _criterion(pairs, name) for name in criteria},
        "slices": {
            name: {
                value: {"n": len(some), **_measured(some, min_items)}
                for value, some in sorted(values.items(), key=lambda pair: (-len(pair[1]), pair[0]))[
                    :MOST_VALUES
                ]
            }
            for name, values in sorted(places.items())
        },
    }


def _measured(pairs: Sequence[Pair], min_items: int) -> Shape:
    """Score and pass rate of both sides, and what can be said of their difference."""
    if not pairs:
        return {"score": None, "passed": None, "verdict": "inconclusive", "reason": "no item is in both runs"}
    clusters = [one["cluster"] for one, _ in pairs]
    score = _difference([one["score"] for one, _ in pairs], [other["score"] for _, other in pairs], clusters)
    one_passed = [one["passed"] for one, _ in pairs]
    other_passed = [other["passed"] for _, other in pairs]
    passed = _difference(
        [float(value) for value in one_passed], [float(value) for value in other_passed], clusters
    )
    passed["mcnemar_p_value"] = mcnemar(one_passed, other_passed)
    passed["a_only"] = sum(x and not y for x, y in zip(one_passed, other_passed, strict=True))
    passed["b_only"] = sum(y and not x for x, y in zip(one_passed, other_passed, strict=True))
    return {"score": score, "passed": passed, **_verdict(score, len(set(clusters)), min_items)}


def _criterion(pairs: Sequence[Pair], name: str) -> Shape | None:
    """Of the items of which both runs have a score by this criterion."""
    both = [
        (one, other)
        for one, other in pairs
        if one["scores"].get(name) is not None and other["scores"].get(name) is not None
    ]
    if not both:
        return None
    return _difference(
        [one["scores"][name] for one, _ in both],
        [other["scores"][name] for _, other in both],
        [one["cluster"] for one, _ in both],
    )


def _difference(a: Sequence[float], b: Sequence[float], clusters: Sequence[str]) -> Shape:
    resamples = RESAMPLES if len(a) < MANY else RESAMPLES_OF_MANY
    alone = len(set(clusters)) == len(clusters)
    told = paired(a, b, clusters=None if alone else clusters, resamples=resamples)
    return {
        "n": told.n,
        "a": sum(a) / len(a),
        "b": sum(b) / len(b),
        "difference": told.difference,
        "low": told.low,
        "high": told.high,
        "p_value": told.p_value,
    }


def _verdict(score: Mapping[str, Any], independent: int, min_items: int) -> Shape:
    """Of b against a: better and worse where the whole interval is on one side of nothing."""
    if independent < min_items:
        why = f"{independent} independent items, and {min_items} are the least"
        return {"verdict": "inconclusive", "reason": why}
    span = f"the difference lies between {score['low']:+.4f} and {score['high']:+.4f}"
    if score["low"] > 0:
        return {"verdict": "better", "reason": span}
    if score["high"] < 0:
        return {"verdict": "worse", "reason": span}
    return {"verdict": "no_difference", "reason": span}
