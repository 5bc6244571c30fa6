"""Whether a version may answer: each check of its gate against what was measured. Pure, and the same twice.

Two models are compared on the same items: the mean of the paired differences and its bootstrap interval of 95%
(clusters kept together). Too few items is inconclusive, and inconclusive never passes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.gateway.registry.facts import Check, Facts, checks_of
from services.gateway.registry.facts import check as _check
from shared.contracts.model_registry import GateRules, Outcome, waivable
from shared.statistics import Interval, Paired, interval, mcnemar, paired

# Values of slices that are looked at; one that holds an id has thousands, and says nothing.
MOST_SLICES = 200
METHOD = {"method": "paired percentile bootstrap", "resamples": 2000, "level": 0.95, "seed": 0}


@dataclass(frozen=True)
class Item:
    """What one item of an eval run came to. `key` is the same for the same item in another run."""

    key: str
    cluster: str
    score: float
    passed: bool
    slices: Mapping[str, str]


def decide(
    rules: GateRules,
    facts: Facts,
    candidate: Sequence[Item] | None,
    champion: Sequence[Item] | None,
    baseline: Sequence[Item] | None,
) -> list[Check]:
    """All checks, in the order in which they are told. Items None: there is no such run."""
    return [*_quality(rules, facts, candidate, champion, baseline), *checks_of(rules, facts)]


def with_waivers(checks: Sequence[Check], waivers: Sequence[Mapping[str, Any]]) -> list[Check]:
    """The checks, with those let through that a waiver names and that may be waived."""
    by_name = {waiver["check_name"]: waiver for waiver in reversed(waivers)}
    found = []
    for check in checks:
        waiver = by_name.get(check["name"])
        blocks = check["outcome"] in ("failed", "inconclusive")
        if waiver is None or not blocks or not waivable(check["name"]):
            found.append(check)
            continue
        words = f"{check['reason']}; waived: {waiver['reason']}"
        let_through = {"outcome": "waived", "was": check["outcome"], "waiver": waiver["id"], "reason": words}
        found.append({**check, **let_through})
    return found


def verdict(checks: Sequence[Check]) -> str:
    """As the database makes it of the same checks."""
    outcomes = {check["outcome"] for check in checks}
    if "failed" in outcomes:
        return "failed"
    return "passed" if checks and outcomes <= {"passed", "waived", "not_applicable"} else "inconclusive"


def reasons(checks: Sequence[Check]) -> list[str]:
    """Why a version is blocked."""
    return [f"{c['name']}: {c['reason']}" for c in checks if c["outcome"] in ("failed", "inconclusive")]


def digest(content: Any) -> str:
    """SHA-256 of a JSON value, however its keys stand."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def items_hash(items: Sequence[Item]) -> str:
    """Of all that a decision looks at in a run."""
    rows = sorted([i.key, i.cluster, i.score, i.passed, sorted(i.slices.items())] for i in items)
    return digest(rows)


def _quality(
    rules: GateRules,
    facts: Facts,
    candidate: Sequence[Item] | None,
    champion: Sequence[Item] | None,
    baseline: Sequence[Item] | None,
) -> list[Check]:
    if rules.eval_id is None:
        return [_check("evaluation", "not_applicable", "no eval is asked for")]
    if not candidate:
        said = f"no run of {rules.eval_id} with {facts.model} has succeeded; run one"
        return [_check("evaluation", "inconclusive", said)]
    own = _about(_interval(candidate))
    checks = [_check("evaluation", "passed", f"{len(candidate)} items, mean score {own['mean']}", score=own)]
    if facts.champion is None:
        enough: Outcome = "passed" if len(candidate) >= rules.min_items else "inconclusive"
        words = f"{len(candidate)} items, at least {rules.min_items} are asked for"
        checks.append(_check("items", enough, words, n=len(candidate), limit=rules.min_items))
        checks.append(_check("quality", "not_applicable", "nothing is in production to compare with"))
    else:
        checks += _against_champion(rules, facts, candidate, champion)
    return checks + _baseline(rules, candidate, baseline)


def _against_champion(
    rules: GateRules, facts: Facts, candidate: Sequence[Item], champion: Sequence[Item] | None
) -> list[Check]:
    if not champion:
        said = (
            f"no run of {rules.eval_id} with {facts.champion}, which is in production, has succeeded; run one"
        )
        return [_check("same_items", "inconclusive", said)]
    pairs = _pairs(champion, candidate)
    alone = len(champion) + len(candidate) - 2 * len(pairs)
    checks = [
        _check("same_items", "passed", f"both runs have the same {len(pairs)} items")
        if not alone
        else _check(
            "same_items", "failed", f"{alone} items stand in one of the runs alone; run both on the same"
        )
    ]
    enough = len(pairs) >= rules.min_items
    words = f"{len(pairs)} pairs, at least {rules.min_items} are asked for"
    outcome: Outcome = "passed" if enough else "inconclusive"
    checks.append(_check("items", outcome, words, n=len(pairs), limit=rules.min_items))
    if not pairs:
        return checks
    found = _paired(pairs)
    p = mcnemar([a.passed for a, _ in pairs], [b.passed for _, b in pairs])
    figures = {**_about_pair(found), "mcnemar_p": _round(p)}
    checks.append(_above("quality", found, -rules.margin, enough=enough, **figures))
    if rules.require_improvement:
        checks.append(_above("improvement", found, 0.0, enough=enough, **figures))
    return checks + _slices(rules, pairs)


def _slices(rules: GateRules, pairs: Sequence[tuple[Item, Item]]) -> list[Check]:
    """Each value of each slice; a pair is in the slices that its candidate's item has."""
    members: dict[tuple[str, str], list[tuple[Item, Item]]] = defaultdict(list)
    for pair in pairs:
        for name, value in pair[1].slices.items():
            if rules.slices is None or name in rules.slices:
                members[name, str(value)].append(pair)
    missing = sorted(set(rules.slices or ()) - {name for name, _ in members})
    checks = [_check(f"slice:{name}", "inconclusive", f"no item has the slice {name!r}") for name in missing]
    if len(members) > MOST_SLICES:
        counts = Counter(name for name, _ in members)
        told = ", ".join(f"{name} has {n} values" for name, n in counts.most_common(3))
        words = (
            f"{len(members)} slices are more than {MOST_SLICES} ({told}); name those to look at in `slices`"
        )
        return [*checks, _check("slice:*", "inconclusive", words)]
    for (name, value), inside in sorted(members.items()):
        title = f"slice:{name}={value}"[:200]
        if len(inside) < rules.min_slice_items:
            words = f"{len(inside)} items, fewer than the {rules.min_slice_items} that say something"
            outcome: Outcome = "inconclusive" if rules.small_slices == "block" else "not_applicable"
            checks.append(_check(title, outcome, words, n=len(inside), limit=rules.min_slice_items))
            continue
        found = _paired(inside)
        checks.append(_above(title, found, -rules.slice_margin, enough=True, **_about_pair(found)))
    return checks


def _baseline(rules: GateRules, candidate: Sequence[Item], baseline: Sequence[Item] | None) -> list[Check]:
    checks = []
    enough = len(candidate) >= rules.min_items
    if rules.baseline_score is not None:
        own, limit = _interval(candidate), rules.baseline_score
        words = f"mean {own.mean:.4f} in [{own.low:.4f}, {own.high:.4f}], above {limit} is asked for"
        outcome: Outcome = "inconclusive" if not enough else "passed" if own.low > limit else "failed"
        checks.append(_check("baseline", outcome, words, limit=limit, **_about(own)))
    if rules.baseline_model is not None:
        pairs = _pairs(baseline or (), candidate)
        if not pairs:
            words = (
                f"no run of {rules.eval_id} with {rules.baseline_model} on these items has succeeded; run one"
            )
            checks.append(_check("baseline_model", "inconclusive", words))
        else:
            found = _paired(pairs)
            few = len(pairs) >= rules.min_items
            checks.append(_above("baseline_model", found, 0.0, enough=few, **_about_pair(found)))
    return checks


def _above(name: str, found: Paired, limit: float, *, enough: bool, **figures: Any) -> Check:
    words = (
        f"difference {found.difference:+.4f} in [{found.low:+.4f}, {found.high:+.4f}] over {found.n} items; "
        f"the interval must lie above {limit:+g}"
    )
    outcome: Outcome = "inconclusive" if not enough else "passed" if found.low > limit else "failed"
    return _check(name, outcome, words, limit=limit, **figures)


def _pairs(a: Sequence[Item], b: Sequence[Item]) -> list[tuple[Item, Item]]:
    """The items of both, in the order of b; an item that stands twice is paired with its like in turn."""
    by_key: dict[str, list[Item]] = defaultdict(list)
    for item in reversed(a):
        by_key[item.key].append(item)
    return [(by_key[item.key].pop(), item) for item in b if by_key.get(item.key)]


def _clusters(items: Sequence[Item]) -> list[str] | None:
    names = [item.cluster for item in items]
    return names if len(set(names)) < len(names) else None


def _interval(items: Sequence[Item]) -> Interval:
    return interval([item.score for item in items], clusters=_clusters(items))


def _paired(pairs: Sequence[tuple[Item, Item]]) -> Paired:
    clusters = _clusters([b for _, b in pairs])
    return paired([a.score for a, _ in pairs], [b.score for _, b in pairs], clusters=clusters)


def _about(found: Interval) -> dict[str, Any]:
    figures = {"mean": found.mean, "low": found.low, "high": found.high}
    return {name: _round(value) for name, value in figures.items()} | {"n": found.n}


def _about_pair(found: Paired) -> dict[str, Any]:
    figures = {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
    }
    return {name: _round(value) for name, value in figures.items()} | {"n": found.n}


def _round(value: float) -> float:
    """Numbers that two machines agree on, and that are read; 0 has no sign, as JSON in the database has none."""
    return round(value, 6) + 0.0
