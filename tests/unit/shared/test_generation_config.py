"""What a model's folder pins of decoding: read, refused by name, written, and put over another's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from shared.contracts.generation_config import (
    NAMES,
    over,
    pinned,
    read_pinned,
    shown_settings,
    unapplied,
    written,
)
from shared.contracts.inference import Sampling
from shared.contracts.pinned import PinnedDecoding
from shared.errors import InvalidInput


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({}, {}),
        ({"eos_token_id": [1, 2], "do_sample": True, "temperature": None}, {}),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
            {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        ),
        ({"max_new_tokens": 512, "min_p": 0.1, "max_length": 99}, {"max_tokens": 512, "min_p": 0.1}),
        # What is said of drawing has no meaning where nothing is drawn.
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.0}),
        ({"temperature": 0, "top_k": 5, "max_new_tokens": 3}, {"temperature": 0.0, "max_tokens": 3}),
        ({"top_k": -1, "temperature": 1}, {"top_k": 0, "temperature": 1.0}),
    ],
)
def test_a_file_pins_what_it_says(config: dict[str, Any], settings: dict[str, Any]) -> None:
    assert pinned(config) == settings
    assert read_pinned(json.dumps(config).encode()) == settings
    assert pinned(written(settings)) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 7),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", 2.5),
        ("top_k", -2),
        ("min_p", [0.1]),
        ("repetition_penalty", 0),
        ("max_new_tokens", 0),
        ("max_new_tokens", "many"),
        ("do_sample", "no"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=rf"generation_config\.json has {name}=") as caught:
        pinned({"do_sample": False, name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'"x"', b"[" * 100_000])
def test_a_file_that_is_no_object_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"generation_config\.json"):
        read_pinned(content)


def test_settings_are_put_over_a_models_own() -> None:
    own = {"temperature": 0.7, "top_p": 0.8}
    assert over(own, {}) == own
    assert over(own, {"top_p": 0.5}) == {"temperature": 0.7, "top_p": 0.5}
    assert over(own, {"temperature": 0.0}) == {"temperature": 0.0}
    assert over({"temperature": 0.0, "max_tokens": 9}, {"top_k": 5}) == {"max_tokens": 9, "top_k": 5}


def test_what_is_not_applied_is_named_where_it_would_change_an_answer() -> None:
    config = {"num_beams": 4, "no_repeat_ngram_size": 0, "suppress_tokens": None, "typical_p": 0.9}
    assert unapplied(config) == ["num_beams", "typical_p"]


def test_settings_are_shown_in_a_line() -> None:
    assert shown_settings({"temperature": 0.0, "max_tokens": 5}) == "temperature=0, max_tokens=5"
    assert shown_settings({}) is None


def test_a_job_pins_what_a_file_may_pin_and_a_request_may_say() -> None:
    assert set(NAMES) == set(PinnedDecoding.model_fields) <= set(Sampling.model_fields)
    for name, low, high in (
        ("temperature", 0, 2),
        ("top_p", 1e-6, 1),
        ("top_k", 0, 100_000),
        ("min_p", 0, 1),
        ("repetition_penalty", 0.01, 100),
        ("max_tokens", 1, 131_072),
    ):
        for value in (low, high):
            settings = PinnedDecoding.model_validate({name: value}).settings()
            assert pinned(written(settings)) == settings == {name: value}
            Sampling.model_validate(settings)
        with pytest.raises(ValidationError):
            PinnedDecoding.model_validate({name: high + 1})
    with pytest.raises(ValidationError, match=r"leave out top_p, top_k"):
        PinnedDecoding.model_validate({"temperature": 0, "top_p": 0.5, "top_k": 3})
