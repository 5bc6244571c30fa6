"""Hyperparameters: strict names and ranges, "auto" everywhere."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel

from services.training.hyperparameters import (
    DpoHyperparameters,
    EncoderHyperparameters,
    EvaluateHyperparameters,
    HeadHyperparameters,
    MultiTaskHyperparameters,
    PretrainHyperparameters,
    SftHyperparameters,
    parse,
)
from shared.contracts.encoders import EncoderParameters
from shared.contracts.heads import HeadParameters
from shared.contracts.multi_task import MultiTaskParameters
from shared.contracts.preferences import PreferenceParameters
from shared.contracts.training import FineTuneParameters, PretrainParameters
from shared.errors import InvalidInput


def test_auto_and_null_leave_the_default() -> None:
    parsed = parse(PretrainHyperparameters, {"n_epochs": "auto", "vocab_size": "auto", "batch_size": None})
    assert parsed == PretrainHyperparameters()


def test_a_misspelt_name_is_refused_with_the_right_one() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'learning_rate'") as caught:
        parse(SftHyperparameters, {"learning_rat": 1e-3})
    assert caught.value.param == "hyperparameters.learning_rat"


@pytest.mark.parametrize("value", ["3", True, 1.5, -1, 0, math.nan, math.inf, [], {}, 10**9])
def test_a_count_must_be_a_whole_number_in_range(value: object) -> None:
    with pytest.raises(InvalidInput, match="n_epochs"):
        parse(SftHyperparameters, {"n_epochs": value})


def test_a_whole_number_may_come_as_a_float() -> None:
    assert parse(EvaluateHyperparameters, {"limit": 5.0}).limit == 5


def test_the_method_is_one_of_the_known() -> None:
    with pytest.raises(InvalidInput, match="lora, full"):
        parse(SftHyperparameters, {"method": "qlora"})


def test_target_modules_are_auto_or_names() -> None:
    assert parse(SftHyperparameters, {"target_modules": ["q_proj"]}).target_modules == ("q_proj",)
    with pytest.raises(InvalidInput, match="target_modules"):
        parse(SftHyperparameters, {"target_modules": [1]})


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(InvalidInput, match="hidden_size"):
        parse(PretrainHyperparameters, {"hidden_size": 100, "heads": 3})


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        (PretrainParameters, PretrainHyperparameters),
        (HeadParameters, HeadHyperparameters),
        (MultiTaskParameters, MultiTaskHyperparameters),
        (EncoderParameters, EncoderHyperparameters),
    ],
)
def test_the_trainer_takes_what_the_api_takes(asked: type[BaseModel], taken: type[Any]) -> None:
    """A trainer believes nobody, so ranges stand in both; a job that was accepted must never be refused by them."""
    known = {one.name: one.metadata for one in fields(taken)}
    properties = asked.model_json_schema()["properties"]
    assert properties.keys() == known.keys()
    for name, schema in properties.items():
        for numbers in schema.get("anyOf", [schema]):
            if numbers.get("type") in ("integer", "number"):
                rule = known[name]
                told = (numbers["type"] == "integer", numbers["minimum"], numbers["maximum"])
                assert told == (rule["kind"] is int, rule["low"], rule["high"]), name


@pytest.mark.parametrize(
    ("asked", "taken"),
    [(FineTuneParameters, SftHyperparameters), (PreferenceParameters, DpoHyperparameters)],
)
def test_the_trainer_takes_the_rates_steps_and_seconds_that_the_api_takes(
    asked: type[BaseModel], taken: type[Any]
) -> None:
    for name in ("learning_rate", "max_steps", "max_seconds", "batch_size", "checkpoint_every", "log_every"):
        [numbers] = [
            one for one in asked.model_json_schema()["properties"][name]["anyOf"] if "minimum" in one
        ]
        for value in (numbers["minimum"], numbers["maximum"]):
            parse(taken, {name: value})
