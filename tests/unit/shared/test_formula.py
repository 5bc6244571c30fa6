"""The formula of a multi grader computes, and does nothing else."""

from __future__ import annotations

import pytest

from shared.errors import InvalidInput
from shared.task.formula import check_formula, evaluate

NAMES = ["exact", "near"]


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("0.5 * exact + 0.5 * near", 0.75),
        ("max(exact, near) - -near / 2", 1.25),
        ("sqrt(near + 3.5) * floor(1.9)", 2.0),
        (" min(1, exact, 3) ", 1.0),
    ],
)
def test_a_formula_is_worked_out(formula: str, value: float) -> None:
    check_formula(formula, NAMES, "place")
    assert evaluate(formula, {"exact": 1.0, "near": 0.5}, "place") == pytest.approx(value)


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("exat + 1", "did you mean 'exact'?"),
        ("exact ** 9", "not binop"),
        ("exact.real", "not attribute"),
        ("__import__('os')", "not call"),
        ("exact if near else 1", "not ifexp"),
        ("True", "not constant"),
        ("'a' * 9", "not constant"),
        ("exact +", "is no formula"),
        ("+".join(["exact"] * 200), "more than 200 parts"),
        ("(" * 500 + "1" + ")" * 500, "no formula"),
    ],
)
def test_anything_else_is_refused(formula: str, words: str) -> None:
    with pytest.raises(InvalidInput) as told:
        check_formula(formula, NAMES, "place")
    assert words in told.value.message


@pytest.mark.parametrize("formula", ["exact / 0", "sqrt(-1)", "exp(9999)", "log(0)", "1e308 * 10"])
def test_what_has_no_value_is_an_error(formula: str) -> None:
    check_formula(formula, NAMES, "place")
    with pytest.raises(InvalidInput, match="place"):
        evaluate(formula, {"exact": 1.0, "near": 0.5}, "place")
