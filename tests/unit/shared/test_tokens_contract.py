"""The bodies of requests to tokenize and detokenize."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.inference import Detokenize, ModelRef, Tokenize
from shared.contracts.tokens import parse_detokenize, parse_tokenize, tokenized
from shared.errors import InvalidInput

MODEL = ModelRef(name="m", base_artifact="sha256:1")
CHAT = [{"role": "user", "content": "您好"}]


def test_a_text_and_a_chat_become_calls_that_survive_the_queue() -> None:
    text = parse_tokenize({"model": "m", "prompt": "", "add_special_tokens": False}).of(MODEL)
    assert (text.prompt, text.add_special_tokens, text.token_strs) == ("", False, True)
    body = {"model": "m", "messages": CHAT, "add_generation_prompt": False, "return_token_strs": False}
    chat = parse_tokenize(body).of(MODEL)
    assert (chat.messages[0].content, chat.add_generation_prompt, chat.token_strs) == ("您好", False, False)
    for call in (text, chat):
        assert Tokenize.model_validate(call.dump()) == call
    tokens = parse_detokenize({"model": "m", "tokens": [1, 2]}).of(MODEL)
    assert Detokenize.model_validate(tokens.dump()) == tokens


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "messages": CHAT}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "\x00"}, "prompt"),
        ({"prompt": "x", "add_generation_prompt": True}, "add_generation_prompt"),
        ({"prompt": "x", "tools": []}, "tools"),
        ({"messages": CHAT, "add_special_tokens": True}, "add_special_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": CHAT, "tools": [{"type": "x"}]}, "tools[0].type"),
        ({"prompt": "x", "max_tokens": 1}, "max_tokens"),
    ],
)
def test_what_is_wrong_is_refused_at_its_place(values: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_tokenize({"model": "m", **values})
    assert caught.value.param == place


@pytest.mark.parametrize(
    ("tokens", "place"),
    [
        (None, "tokens"),
        ("1", "tokens"),
        ([1, "2"], "tokens[1]"),
        ([1, -2], "tokens[1]"),
        ([True], "tokens[0]"),
        ([0] * 131_073, "tokens"),
    ],
)
def test_a_wrong_token_is_refused_at_its_place(tokens: Any, place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_detokenize({"model": "m", "tokens": tokens})
    assert caught.value.param == place


def test_the_answer_counts_the_tokens() -> None:
    told = tokenized([5, 6], ["a", "b"], 256)
    assert told == {"count": 2, "max_model_len": 256, "tokens": [5, 6], "token_strs": ["a", "b"]}
