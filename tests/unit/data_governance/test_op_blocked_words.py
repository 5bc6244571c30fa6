"""Words of a list are found without regard to case and width, and never within a longer Latin word."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.data_governance.operators.blocked_words import Blocked
from services.data_governance.rows import Outcome, Row
from shared.contracts.recipe_text import InvalidRecipe, parse_recipe
from shared.contracts.steps.blocked_words import BlockedWords

MakeRow = Callable[..., Row]


def _run(rows: Sequence[Row], **params: Any) -> Outcome:
    return Blocked(BlockedWords.model_validate({"op": "blocked_words", "params": params}))(rows)


def test_a_row_with_a_blocked_word_in_any_turn_is_dropped_by_number(row: MakeRow) -> None:
    rows = [row("办假证吗", "不办", line=1), row("办证", "好", line=2), row("hi", "联系刷单群", line=3)]
    dropped = _run(rows, words=["假证", "刷单"]).dropped
    assert [(d.row.line, d.rule) for d in dropped] == [(1, "blocked_words"), (3, "blocked_words")]
    assert "number 1" in dropped[1].reason
    assert "刷单" not in dropped[1].reason


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("What a DAMN day", "What a *** day"),
        ("ｄａｍｎ！", "***！"),
        ("damnation", "damnation"),
        ("是damn的", "是***的"),
        ("İ DAMN", "İ ***"),
    ],
)
def test_case_and_width_make_no_difference_and_longer_words_stay(
    text: str, masked: str, row: MakeRow
) -> None:
    assert _run([row(text=text)], words=["Damn"], action="mask").kept[0].text == masked


def test_the_longest_word_is_masked_where_several_begin(row: MakeRow) -> None:
    kept = _run([row(text="代开发票和代开")], words=["代开", "代开发票"], action="mask", replacement="█").kept
    assert kept[0].text == "█和█"


def test_a_flag_leaves_the_text_and_lists_the_words(row: MakeRow) -> None:
    outcome = _run([row(text="假证和刷单", meta='{"a":1}')], words=["刷单", "假证"], action="flag")
    assert json.loads(outcome.kept[0].meta) == {"a": 1, "blocked_words": [0, 1]}
    assert outcome.kept[0].text == "假证和刷单"
    assert outcome.changed[0].rules == {"blocked_words": 2}


def test_ten_thousand_words_are_looked_for_at_once(row: MakeRow) -> None:
    words = [f"词{n}号" for n in range(10_000)]
    rows = [row(text="平常的话" * 50 + f"词{n}号", line=n) for n in range(0, 10_000, 1000)]
    assert len(_run(rows, words=words).dropped) == len(rows)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"words": [" "]}, "blank"),
        ({"words": ["*"], "action": "mask"}, "choose another"),
        ({"words": []}, "at least 1"),
    ],
)
def test_lists_that_cannot_work_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRecipe, match=says):
        parse_recipe({"steps": [{"op": "blocked_words", "params": params}]})
