"""Agreement against values computed by hand and by the authors of the measures."""

from __future__ import annotations

from typing import Any

import pytest

from services.data_governance.labelling.agreement import (
    Given,
    cohen_kappa,
    krippendorff_alpha,
    pooled_span_f1,
    summary,
)


def test_kappa_is_the_hand_computed_one() -> None:
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 35/50, expected (25*30 + 25*20)/2500 = 1/2.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)


def test_kappa_of_full_agreement_is_one_and_of_one_label_undefined() -> None:
    assert cohen_kappa([("a", "a"), ("b", "b")]) == 1
    assert cohen_kappa([("a", "a"), ("a", "a")]) is None
    assert cohen_kappa([]) is None


def test_alpha_with_gaps_is_the_one_that_its_author_computes() -> None:
    # Krippendorff 2011, part C: four observers, twelve units, missing data; nominal alpha 0.743.
    observers = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    units = [[v for v in column if v != "."] for column in zip(*(o.split() for o in observers), strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_without_gaps_is_the_hand_computed_one() -> None:
    # aa ab bb: coincidences aa 2, ab 1, ba 1, bb 2; 1 - 5 * 2 / (36 - 18).
    assert krippendorff_alpha([["a", "a"], ["a", "b"], ["b", "b"]]) == pytest.approx(1 - 10 / 18)
    assert krippendorff_alpha([["a"], ["b"]]) is None


def span(start: int, end: int, label: str = "x") -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


def test_span_f1_pools_exact_spans_of_all_items() -> None:
    pairs = [([span(0, 2), span(3, 5)], [span(0, 2)]), ([span(1, 2)], [span(1, 2, "y")])]
    assert pooled_span_f1(pairs) == pytest.approx(2 * 1 / 5)
    assert pooled_span_f1([([], [])]) is None


def given(item: str, **labels: str) -> list[Given]:
    return [Given(item, who, {"label": label}) for who, label in labels.items()]


def test_two_who_labelled_everything_are_measured_by_kappa_and_with_gaps_by_alpha() -> None:
    both = given("1", li="a", wang="a") + given("2", li="a", wang="b") + given("3", li="b", wang="b")
    told = summary(both, {}, "classification")
    # Observed 2/3, expected (2*1 + 1*2)/9.
    assert (told["measure"], told["items"]) == ("cohen_kappa", 3)
    assert told["value"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert told["observed"] == pytest.approx(2 / 3)
    gap = summary(both + given("4", li="a"), {}, "classification")
    assert (gap["measure"], gap["items"], gap["labels"]) == ("krippendorff_alpha", 3, 7)
    assert gap["value"] == pytest.approx(1 - 10 / 18)


def test_each_pair_is_told_over_the_items_that_both_labelled() -> None:
    told = summary(given("1", a="x", b="x", c="y") + given("2", a="y", b="x"), {}, "classification")
    pairs = {tuple(pair["labellers"]): (pair["items"], pair["observed"]) for pair in told["pairs"]}
    assert pairs == {("a", "b"): (2, 0.5), ("a", "c"): (1, 0.0), ("b", "c"): (1, 0.0)}


def test_labellers_are_measured_on_what_is_known() -> None:
    labels = given("1", li="a", wang="b") + given("2", li="a") + given("3", wang="a")
    told = summary(labels, {"1": {"label": "a"}, "2": {"label": "b"}}, "classification")
    assert told["gold"] == [
        {"labeller": "li", "items": 2, "accuracy": 0.5},
        {"labeller": "wang", "items": 1, "accuracy": 0.0},
    ]
