"""Ranges, metrics and values of searches: pure."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.contracts.searches import (
    Choices,
    Dimension,
    FloatRange,
    IntRange,
    combinations,
    final_value,
    metrics_of,
    natural_direction,
    trial_state,
)


def test_a_range_knows_its_values_where_they_can_be_counted() -> None:
    assert IntRange(type="int", low=1, high=8, step=3).values == (1, 4, 7)
    assert FloatRange(type="float", low=0.0, high=1.0, step=0.25).values == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert FloatRange(type="float", low=0.0, high=1.0).values is None
    tiny = FloatRange(type="float", low=-1e15, high=1e15, step=1e-300)
    assert len(tiny.values or ()) == 1001
    ranges = [IntRange(type="int", low=1, high=3), Choices(type="categorical", choices=("a", "b"))]
    assert combinations(ranges) == 6
    assert combinations([*ranges, FloatRange(type="float", low=0.0, high=1.0)]) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 2.0, "high": 1.0},
        {"low": 1.0, "high": 1.0},
        {"low": 0.0, "high": 1.0, "log": True},
        {"low": 0.1, "high": 1.0, "log": True, "step": 0.1},
        {"low": 0.1, "high": float("inf")},
        {"low": 0.1, "high": 1.0, "step": 0.0},
    ],
)
def test_a_range_that_cannot_be_drawn_from_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FloatRange(type="float", **wrong)


def test_choices_are_told_apart_by_type_and_set_what_is_theirs() -> None:
    choices = Choices(type="categorical", choices=(1, 1.0, True, "1", [1]))
    one = Dimension(path="p", range=choices, patches=tuple({"a": n} for n in range(5)))
    assert [one.index(value) for value in choices.choices] == [0, 1, 2, 3, 4]
    assert one.patch(True) == {"a": 2}
    assert Dimension(path="p", range=IntRange(type="int", low=1, high=2), place="x.y").patch(2) == {"x.y": 2}
    with pytest.raises(ValidationError, match="twice"):
        Choices(type="categorical", choices=({"a": 1, "b": 2}, {"b": 2, "a": 1}))


def test_losses_and_errors_are_better_when_smaller() -> None:
    for kind, payload in (
        ("training.pretrain", {}),
        ("training.fine_tune", {}),
        ("training.preferences", {}),
        ("training.train_encoder", {}),
        ("training.train_head", {"choice": {"head": "regression"}}),
        ("training.train_multi_task", {"parts": [{"name": "a", "head": "single_label"}]}),
    ):
        known = metrics_of(kind, payload)
        assert "train_loss" in known
        for metric in known:
            smaller = any(word in metric for word in ("loss", "mse", "mae"))
            assert natural_direction(metric) == ("minimize" if smaller else "maximize")
    assert metrics_of("training.distill", {}) == ()
    assert "a/valid_macro_f1" in metrics_of(
        "training.train_multi_task", {"parts": [{"name": "a", "head": "single_label"}]}
    )


def test_the_value_is_what_was_measured_of_the_finished_model_else_what_was_told_last() -> None:
    result = {"held_out": {"accuracy": 0.9}, "train_loss": 1.0, "valid_loss": 2.0}
    assert final_value("valid_accuracy", result, 0.5) == 0.9
    assert final_value("valid_loss", result, 0.5) == 2.0
    assert final_value("train_loss", result, 0.5) == 1.0
    assert final_value("valid_macro_f1", result, 0.5) == 0.5
    assert final_value("valid_macro_f1", result, None) is None
    assert final_value("valid_accuracy", {"held_out": {"accuracy": float("nan")}}, None) is None
    assert final_value("a/valid_accuracy", {"tasks": {"a": {"held_out": {"accuracy": 0.7}}}}, 0.1) == 0.7


def test_an_open_trial_stands_as_its_job_does() -> None:
    assert trial_state("complete", "succeeded") == "complete"
    assert trial_state("open", "leased") == "running"
    assert trial_state("open", "paused") == "paused"
    assert {trial_state("open", one) for one in ("failed", "dead", "expired", "succeeded")} == {"failed"}
