"""Rows that repeat themselves are dropped, and conversations that only use the same words are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.data_governance.operators.drop_repetitive import Repetitive, _covered, _distinct, _ngrams
from services.data_governance.rows import Outcome, Row
from shared.contracts.steps.drop_repetitive import DropRepetitive

MakeRow = Callable[..., Row]


def _run(rows: Sequence[Row], **params: Any) -> Outcome:
    return Repetitive(DropRepetitive.model_validate({"op": "drop_repetitive", "params": params}))(rows)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("哈" * 100, "repeated_character"),
        ("标题" + "-" * 90, "repeated_character"),
        ("\n".join(["订单已发货请查收", "物流更新"] * 6), "repeated_lines"),
        ("点击领取优惠券立即下单享受折扣" * 8, "repeated_ngrams"),
        ("buy now and save big money today " * 12, "repeated_ngrams"),
        (
            " ".join(f"buy now {word}" for word in "abcdefghijklmnopq"),
            "repeated_phrase",
        ),
    ],
)
def test_what_repeats_beyond_the_limits_is_dropped(text: str, rule: str, row: MakeRow) -> None:
    assert [drop.rule for drop in _run([row(text=text)]).dropped] == [rule]


@pytest.mark.parametrize(
    "turns",
    [
        (
            "你好",
            "您好，请问有什么可以帮您？",
            "我的订单什么时候到",
            "您好，您的订单预计明天送达，请您耐心等待",
        ),
        ("好的", "好的"),
        (
            "Where is my order?",
            "Your order is on its way. Your order number is 20331, and it arrives on Monday.",
        ),
        ("哈哈哈哈哈哈", "嗯嗯"),
        ("", ""),
    ],
)
def test_ordinary_conversations_are_kept(turns: Sequence[str], row: MakeRow) -> None:
    assert _run([row(*turns)]).dropped == []


@given(st.lists(st.integers(0, 5), min_size=12, max_size=80), st.sampled_from([2, 4, 5, 10]))
def test_ngrams_are_counted_as_a_counter_counts_them(tokens: list[int], size: int) -> None:
    told = Counter(tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1))
    hashed = _ngrams(np.array(tokens, dtype=np.uint64), size)
    assert len(hashed) == told.total()
    assert _distinct(hashed) == len(told)
    best = max(told.values())
    covered = {
        len({at + step for at in _places(tokens, ngram) for step in range(size)})
        for ngram, times in told.items()
        if times == best
    }
    assert _covered(hashed, size) in (covered if best > 1 else {0})


def _places(tokens: list[int], ngram: tuple[int, ...]) -> list[int]:
    size = len(ngram)
    return [at for at in range(len(tokens) - size + 1) if tuple(tokens[at : at + size]) == ngram]


def test_a_number_with_many_zeros_is_no_phrase(row: MakeRow) -> None:
    turns = ("跑鞋能做礼品包装吗，打我手机15000000000", "跑鞋可加8元礼盒包装，并附手写贺卡。")
    assert _run([row(*turns)]).dropped == []
