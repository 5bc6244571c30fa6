"""Conversations as tokens: what is learned is the answer and its end, rendered as it will be served."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from services.training.dataset import Message
from services.training.tokenizer import (
    END,
    IGNORED,
    encode_conversation,
    encode_prompt,
    encode_rendered,
    encode_text,
    render,
    train_tokenizer,
)

TURNS = (
    Message("system", "You are kind."),
    Message("user", "你好，退货怎么办？"),
    Message("assistant", "七天内可以退货。"),
    Message("user", "Thanks! And my refund?"),
    Message("assistant", "It takes three days."),
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([m.content for m in TURNS] * 3, 400, 256)


def _learned(tokenizer: PreTrainedTokenizerFast, labels: list[int]) -> str:
    return str(tokenizer.decode([i for i in labels if i != IGNORED]))


def test_any_text_comes_back_unchanged(tokenizer: PreTrainedTokenizerFast) -> None:
    text = " 你好\n\n  tab\t😀 ñ 12345 <b>"
    assert tokenizer.decode(encode_text(tokenizer, text)) == text


def test_signs_inside_plain_text_are_no_signs(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.eos_token_id not in encode_text(tokenizer, f"a {END} b")


def test_every_answer_is_learned_with_its_end_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    (encoded,) = encode_conversation(tokenizer, TURNS, 256)
    assert _learned(tokenizer, encoded.labels) == f"七天内可以退货。{END}It takes three days.{END}"
    assert tokenizer.decode(encoded.ids) == render(tokenizer, TURNS, prompt=False)


def test_the_trained_prompt_is_the_served_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    (encoded,) = encode_conversation(tokenizer, TURNS, 256)
    served = tokenizer.apply_chat_template(
        [m.as_dict() for m in TURNS[:-1]], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert encode_prompt(tokenizer, TURNS[:-1], 256) == served
    assert encoded.ids[: len(served)] == served


def test_an_answer_of_weight_zero_is_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [*TURNS[:2], Message("assistant", "七天内可以退货。", trained=False), *TURNS[3:]]
    (encoded,) = encode_conversation(tokenizer, turns, 256)
    assert _learned(tokenizer, encoded.labels) == f"It takes three days.{END}"


def test_a_long_conversation_is_cut_at_user_turns_and_every_answer_is_learned_once(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    turns = [TURNS[0]]
    for number in range(10):
        turns += [Message("user", f"question {number}?"), Message("assistant", f"answer {number}.")]
    parts = encode_conversation(tokenizer, turns, 150)
    assert len(parts) > 1
    assert all(len(p.ids) <= 150 for p in parts)
    assert all(tokenizer.decode(p.ids).startswith("<|im_start|>system") for p in parts)
    learned = "".join(_learned(tokenizer, p.labels) for p in parts)
    assert learned == "".join(f"answer {n}.{END}" for n in range(10))


def test_a_prompt_that_fills_the_room_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [Message("user", "too long " * 50), Message("assistant", "ok")]
    assert encode_conversation(tokenizer, turns, 32) == []


def test_a_long_prompt_loses_its_oldest_turns_first(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = encode_prompt(tokenizer, TURNS[:-1], 256)
    short = encode_prompt(tokenizer, TURNS[:-1], len(whole) - 1)
    assert short == encode_rendered(tokenizer, render(tokenizer, [TURNS[0], TURNS[3]], prompt=True))
    assert len(encode_prompt(tokenizer, TURNS[:-1], 5)) == 5


def test_a_template_that_rewrites_earlier_turns_trains_the_last_answer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    original = tokenizer.chat_template
    tokenizer.chat_template = (
        "{%- for m in messages[-2:] -%}{{ m['role'] + ':' + m['content'] }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}assistant:{%- endif -%}"
    )
    try:
        (encoded,) = encode_conversation(tokenizer, TURNS, 256)
    finally:
        tokenizer.chat_template = original
    assert _learned(tokenizer, encoded.labels) == f"It takes three days.{END}"
