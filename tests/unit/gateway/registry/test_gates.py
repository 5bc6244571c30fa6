"""Gates on constructed scores: what passes, what blocks, and what cannot be said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from services.gateway.registry.checks import Item, decide, digest, items_hash, reasons, verdict, with_waivers
from services.gateway.registry.facts import Facts
from shared.contracts.model_registry import GateRules, waivable

RULES = GateRules(eval_id="eval_1", min_items=50, min_slice_items=20)
FACTS = Facts("new", "adapter", True, {"passed": True}, "dsv-1", None, True, champion="old")


def items(scores: Sequence[float], **slices: Sequence[str]) -> list[Item]:
    return [
        Item(f"k{n}", f"k{n}", score, score > 0.5, {name: values[n] for name, values in slices.items()})
        for n, score in enumerate(scores)
    ]


def outcomes(
    rules: GateRules = RULES,
    facts: Facts = FACTS,
    new: Sequence[Item] | None = None,
    old: Sequence[Item] | None = None,
    trivial: Sequence[Item] | None = None,
) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in decide(rules, facts, new, old, trivial)}


def rules(**changes: Any) -> GateRules:
    return GateRules.model_validate({**RULES.model_dump(), **changes})


HALF = [float(n % 2) for n in range(100)]
SEVEN = [float(n % 10 < 7) for n in range(100)]


def test_the_same_answers_pass_and_are_no_improvement() -> None:
    same = items(SEVEN)
    assert verdict(decide(RULES, FACTS, same, same, None)) == "passed"
    asked = outcomes(rules(require_improvement=True), new=same, old=same)
    assert (asked["quality"], asked["improvement"]) == ("passed", "failed")


@pytest.mark.parametrize(
    ("worse_in", "quality"),
    [(0, "passed"), (1, "passed"), (2, "failed"), (10, "failed")],
)
def test_the_whole_interval_must_lie_above_the_margin(worse_in: int, quality: str) -> None:
    # Of 1,000 items, 1 fewer is within a margin of 0.02 beyond doubt; of 100, 2 fewer are not.
    scale = 1000 if worse_in == 1 else 100
    old = [1.0] * scale
    new = [0.0] * worse_in + [1.0] * (scale - worse_in)
    assert outcomes(new=items(new), old=items(old))["quality"] == quality


def test_a_better_model_that_is_worse_in_one_slice_is_blocked_by_that_slice() -> None:
    language = ["zh" if n < 40 else "en" for n in range(200)]
    old = items([float(n % 2) for n in range(200)], language=language)
    new = items([0.0 if n < 40 else 1.0 for n in range(200)], language=language)
    found = outcomes(new=new, old=old)
    assert (found["quality"], found["slice:language=zh"], found["slice:language=en"]) == (
        "passed",
        "failed",
        "passed",
    )
    assert verdict(decide(RULES, FACTS, new, old, None)) == "failed"
    assert "slice:language=zh" not in outcomes(rules(slices=[]), new=new, old=old)


def test_few_items_are_inconclusive_however_good() -> None:
    new, old = items([1.0] * 49), items([0.0] * 49)
    found = decide(RULES, FACTS, new, old, None)
    assert verdict(found) == "inconclusive"
    assert [line.split(":")[0] for line in reasons(found)] == ["items", "quality"]


def test_a_small_slice_blocks_unless_it_is_to_be_told_alone() -> None:
    label = ["rare" if n < 5 else "common" for n in range(100)]
    pair = {"new": items(HALF, label=label), "old": items(HALF, label=label)}
    assert outcomes(**pair)["slice:label=rare"] == "inconclusive"
    assert outcomes(rules(small_slices="tell"), **pair)["slice:label=rare"] == "not_applicable"
    assert outcomes(rules(slices=["source"]), **pair)["slice:source"] == "inconclusive"


def test_a_slice_of_ids_is_not_looked_at_one_by_one() -> None:
    ids = [f"id-{n}" for n in range(300)]
    scores = [1.0] * 300
    found = outcomes(new=items(scores, id=ids), old=items(scores, id=ids))
    assert found["slice:*"] == "inconclusive"
    assert waivable("slice:*")


def test_runs_over_other_items_are_not_compared_as_if_they_were_the_same() -> None:
    new, old = items(HALF), items(HALF)
    others = [replace(item, key=f"x{n}") for n, item in enumerate(old[:10])] + old[10:]
    assert outcomes(new=new, old=others)["same_items"] == "failed"
    assert outcomes(new=new, old=old[:-1])["same_items"] == "failed"
    assert outcomes(new=new, old=list(reversed(old)))["same_items"] == "passed"
    twice = [*old, old[0]]
    assert outcomes(new=twice, old=twice)["same_items"] == "passed"


def test_without_a_run_nothing_is_said() -> None:
    assert outcomes()["evaluation"] == "inconclusive"
    assert outcomes(new=items(HALF))["same_items"] == "inconclusive"
    assert outcomes(rules(eval_id=None), facts=FACTS)["evaluation"] == "not_applicable"


def test_a_first_version_has_nothing_to_beat_but_the_baseline() -> None:
    first = replace(FACTS, champion=None)
    found = outcomes(rules(baseline_score=0.5), facts=first, new=items(SEVEN))
    assert (found["quality"], found["items"], found["baseline"]) == ("not_applicable", "passed", "passed")
    assert outcomes(rules(baseline_score=0.5), facts=first, new=items(HALF))["baseline"] == "failed"
    named = rules(baseline_model="majority")
    assert outcomes(named, facts=first, new=items(SEVEN))["baseline_model"] == "inconclusive"
    trivial = items([0.0] * 100)
    assert outcomes(named, facts=first, new=items(SEVEN), trivial=trivial)["baseline_model"] == "passed"
    assert outcomes(named, facts=first, new=items(SEVEN), trivial=items(SEVEN))["baseline_model"] == "failed"


def test_items_of_one_conversation_count_as_one() -> None:
    # Ten conversations of ten items, in one of which the new model fails: as single items the loss would look sure.
    old = [Item(f"k{n}", f"c{n // 10}", 1.0, True, {}) for n in range(100)]
    new = [replace(item, score=0.0 if n < 10 else 1.0) for n, item in enumerate(old)]
    (quality,) = [c for c in decide(RULES, FACTS, new, old, None) if c["name"] == "quality"]
    alone = (
        [replace(item, cluster=item.key) for item in new],
        [replace(item, cluster=item.key) for item in old],
    )
    (single,) = [c for c in decide(RULES, FACTS, *alone, None) if c["name"] == "quality"]
    assert quality["high"] - quality["low"] > 2 * (single["high"] - single["low"])


@pytest.mark.parametrize(
    ("facts", "rule", "check", "outcome"),
    [
        ({"parity": None}, {}, "parity", "failed"),
        ({"parity": {"passed": "yes"}}, {}, "parity", "failed"),
        ({"parity": {"passed": None, "why": "a checkpoint"}}, {}, "parity", "failed"),
        ({"parity": None}, {"parity": "off"}, "parity", "not_applicable"),
        ({"parity": None, "trained_here": False}, {}, "parity", "not_applicable"),
        ({"data_gate_passed": False}, {}, "data_gate", "failed"),
        ({"data_gate_passed": False}, {"data_gate": "where_known"}, "data_gate", "failed"),
        ({"dataset_version": None, "file": "file-1"}, {}, "data_gate", "failed"),
        (
            {"dataset_version": None, "file": "file-1"},
            {"data_gate": "where_known"},
            "data_gate",
            "not_applicable",
        ),
        ({"leaked_questions": 3}, {}, "leakage", "failed"),
        ({"leaked_questions": 0}, {}, "leakage", "passed"),
        ({"leaked_questions": 0, "tested_on": "dsv-1"}, {}, "leakage", "failed"),
        ({"leaked_questions": 3, "tested_on": "dsv-1"}, {"leakage": "off"}, "leakage", "not_applicable"),
        ({"erased": True}, {"data_gate": "off"}, "erasure", "failed"),
    ],
)
def test_how_a_model_was_made_is_a_check_of_its_own(
    facts: dict[str, Any], rule: dict[str, Any], check: str, outcome: str
) -> None:
    assert outcomes(rules(**rule), replace(FACTS, **facts))[check] == outcome


REFUSED = {"model": "base", "data": "dsv-0", "gate_passed": False, "reasons": ["9 rows have an id card"]}
OF_A_FILE = {"model": "base", "data": "file-0", "gate_passed": None, "reasons": []}
GOVERNED = {"model": "base", "data": "dsv-0", "gate_passed": True, "reasons": []}


@pytest.mark.parametrize(
    ("ancestors", "asked", "outcome", "told"),
    [
        ((), "required", "passed", "dsv-1 passed"),
        ((GOVERNED,), "required", "passed", "dsv-1 passed"),
        (
            (GOVERNED, REFUSED),
            "required",
            "failed",
            "stands on base, which learned from dsv-0: 9 rows have an id card",
        ),
        ((REFUSED,), "where_known", "failed", "stands on base"),
        ((REFUSED,), "off", "not_applicable", "not asked"),
        ((OF_A_FILE,), "required", "failed", "stands on base, which learned from file-0, which has no gate"),
        ((OF_A_FILE,), "where_known", "passed", "dsv-1 passed"),
    ],
)
def test_the_data_gate_asks_of_what_a_model_stands_on(
    ancestors: tuple[dict[str, Any], ...], asked: str, outcome: str, told: str
) -> None:
    facts = replace(FACTS, ancestors=ancestors)
    found = next(
        c for c in decide(rules(data_gate=asked), facts, None, None, None) if c["name"] == "data_gate"
    )
    assert (found["outcome"], told in found["reason"]) == (outcome, True), found
    assert Facts.load(facts.dump()) == facts


def test_facts_of_a_decision_from_before_ancestors_were_asked_of_are_read() -> None:
    stored = FACTS.dump()
    del stored["ancestors"]
    assert Facts.load(stored) == FACTS


def test_a_model_is_not_tested_on_what_its_base_learned_from() -> None:
    facts = replace(FACTS, ancestors=(OF_A_FILE,), tested_on="file-0")
    found = next(c for c in decide(RULES, facts, None, None, None) if c["name"] == "leakage")
    assert (found["outcome"], found["reason"]) == (
        "failed",
        "its eval asks rows of file-0, which base learned from",
    )


def test_a_waiver_lets_through_what_may_be_waived_and_says_so() -> None:
    found = decide(RULES, replace(FACTS, parity=None), items([1.0] * 10), items([1.0] * 10), None)
    waivers = [
        {"id": "w1", "check_name": name, "reason": "seen by hand"} for name in ("items", "quality", "parity")
    ]
    waived = {check["name"]: check for check in with_waivers(found, waivers)}
    assert (waived["items"]["outcome"], waived["items"]["was"]) == ("waived", "inconclusive")
    assert waived["parity"]["outcome"] == "failed"
    assert "seen by hand" in waived["quality"]["reason"]
    assert verdict(list(waived.values())) == "failed"


def test_a_verdict_needs_checks() -> None:
    assert verdict([]) == "inconclusive"


def test_the_same_items_have_the_same_hash_in_any_order() -> None:
    made = items(HALF, language=["zh"] * 100)
    assert items_hash(made) == items_hash(list(reversed(made)))
    assert items_hash(made) != items_hash([replace(made[0], score=0.25), *made[1:]])
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


def test_rules_that_ask_for_quality_need_an_eval() -> None:
    for name, value in (("require_improvement", True), ("baseline_score", 0.1), ("baseline_model", "m")):
        with pytest.raises(ValueError, match=f"{name} needs an eval_id"):
            GateRules.model_validate({name: value})
