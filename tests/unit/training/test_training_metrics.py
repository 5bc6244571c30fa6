"""Exact match and token F1 treat Chinese and English as equals."""

from __future__ import annotations

import pytest

from services.training.metrics import exact_match, token_f1, tokens


def test_chinese_counts_by_character_and_english_by_word() -> None:
    assert tokens("退款到iPhone 15账户。Done!") == ["退", "款", "到", "iphone", "15", "账", "户", "done"]


def test_width_case_and_white_space_do_not_matter() -> None:
    assert exact_match(" ＡＢＣ  def\n", "abc DEF") == 1.0
    assert token_f1("ＡＢＣ def", "abc DEF") == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("您好", "您好吗", 0.8),
        ("a b c d", "a b", 2 / 3),
        ("the the the", "the cat", 0.4),
        ("", "您好", 0.0),
        ("完全不同", "something else", 0.0),
    ],
)
def test_f1_is_that_of_the_bags_of_tokens(answer: str, reference: str, expected: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(expected)


def test_signs_alone_match_only_themselves() -> None:
    assert token_f1("!", "!") == 1.0
    assert token_f1("!", "?") == 0.0
