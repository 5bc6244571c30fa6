"""The body of a text completion request."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.completions import parse_completion
from shared.errors import InvalidInput


def body(**values: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "你好", **values}


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], "b"], ((1, 2), "b")),
    ],
)
def test_a_prompt_has_four_shapes(prompt: Any, read: tuple[Any, ...]) -> None:
    assert parse_completion(body(prompt=prompt)).prompts == read


def test_what_is_not_said_is_left_to_the_model() -> None:
    request = parse_completion(body())
    assert (request.sampling.max_tokens, request.n, request.sampling.logprobs) == (None, 1, False)
    asked = parse_completion(body(logprobs=0)).sampling
    assert (asked.logprobs, asked.top_logprobs) == (True, 0)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": ["a", None]}, "prompt[1]"),
        ({"prompt": ["a", [1, -2]]}, "prompt[1]"),
        ({"prompt": [True, False]}, "prompt[0]"),
        ({"prompt": [1, "a"]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": "nul \x00"}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 2}, "n"),
        ({"n": 1_000_000}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(values: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_completion(body(**values))
    assert caught.value.param == place
