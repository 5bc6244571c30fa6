"""A preference pair in a recipe: what is done to a row's texts is done to both answers, wherever they stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from services.data_governance.build import VersionResult
from services.data_governance.operators import build, build_settling
from services.data_governance.pairs import answers, with_answers
from services.data_governance.rows import Message, Row
from services.training.dpo.rows import read_both
from shared.contracts.recipe_text import parse_recipe
from shared.contracts.steps import Step


def _step(text: str) -> Step:
    return parse_recipe(json.dumps({"steps": [json.loads(text)]})).steps[0]


def _rows(better: str, worse: str, shape: str) -> list[Row]:
    """The same pair with the better answer as the last turn, or with both beside the prompt, as texts or as turns."""
    turns = (Message("user", "Where is it?"), Message("assistant", better))
    if shape == "turns":
        beside: dict[str, Any] = {"rejected": worse}
        return [Row("row-1", 1, "1", turns, None, None, json.dumps(beside))]
    if shape == "texts":
        beside = {"chosen": better, "rejected": worse}
    else:
        beside = {
            "preferred_output": [{"role": "assistant", "content": better}],
            "non_preferred_output": [{"role": "assistant", "content": worse}],
        }
    return [Row("row-1", 1, "1", None, "Where is it?", None, json.dumps(beside))]


@pytest.mark.parametrize("shape", ["turns", "texts", "messages"])
@pytest.mark.parametrize(
    ("step", "worse", "becomes"),
    [
        ('{"op": "normalize_text"}', "ï¼\x8c  caf\u00c3\u00a9\u200b ï¼\x8c", None),
        (
            '{"op": "blocked_words", "params": {"words": ["darn"], "action": "mask"}}',
            "No, darn it",
            "No, *** it",
        ),
        ('{"op": "convert_chinese", "params": {"config": "t2s"}}', "訂單沒有了", "订单没有了"),
        ('{"op": "strip_markup"}', "No <b>idea</b>", "No idea"),
        ('{"op": "mask_pii", "params": {"meta": false}}', "Call 13800138000", "Call [PHONE]"),
        ('{"op": "mask_pii"}', "Call 13800138000", "Call [PHONE]"),
    ],
)
def test_what_is_done_to_texts_is_done_to_the_worse_answer(
    shape: str, step: str, worse: str, becomes: str | None
) -> None:
    operator = build(_step(step))
    outcome = operator(_rows("On its way", worse, shape))
    (row,) = outcome.kept
    if becomes is None:
        (alone,) = operator([Row("row-2", 1, "2", None, worse, None, "{}")]).kept
        becomes = alone.text
    assert becomes != worse
    assert row.said() == ("Where is it?", "On its way", becomes)
    (changed,) = outcome.changed
    assert sum(changed.rules.values()) >= 1
    assert json.loads(row.meta).keys() == json.loads(changed.before.meta).keys()


@pytest.mark.parametrize(
    ("step", "worse", "rule"),
    [
        ('{"op": "blocked_words", "params": {"words": ["darn"], "action": "drop"}}', "darn", "blocked_words"),
        ('{"op": "drop_broken"}', "bad \ufffd\ufffd", "encoding_damage"),
        ('{"op": "drop_empty"}', "  ", "empty_message"),
    ],
)
def test_a_row_is_dropped_for_its_worse_answer(step: str, worse: str, rule: str) -> None:
    outcome = build(_step(step))(_rows("On its way", worse, "turns"))
    assert [d.rule for d in outcome.dropped] == [rule]


def test_pairs_with_one_better_answer_are_no_duplicates() -> None:
    duplicates = build_settling(_step('{"op": "exact_duplicates", "params": {"normalised": true}}'))
    keys = [
        duplicates.keys(_rows("On its way", worse, "turns"))["content"].tobytes()
        for worse in ("No idea", "Who knows", "no idea.")
    ]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


def test_a_row_that_is_no_pair_is_left_alone() -> None:
    meta = '{"chosen":"<b>x</b>","rejected_by":"<b>ann</b>"}'
    assert answers(meta) == ()
    (row,) = build(_step('{"op": "strip_markup"}'))([Row("row-1", 1, "1", None, "<b>x</b>", None, meta)]).kept
    assert (row.text, row.meta) == ("x", meta)
    assert with_answers('{"rejected":3,"chosen":null}', ()) == '{"rejected":3,"chosen":null}'
    assert answers('{"rejected":3,"chosen":null}') == ()


def test_a_built_version_trains_on_clean_pairs(
    jsonl: Callable[..., Path], build: Callable[..., VersionResult]
) -> None:
    lines = [
        {"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"Ring 1380013{8000 + n}, darn."}
        for n in range(12)
    ]
    recipe = {
        "input": {"prompt": "prompt", "completion": "chosen"},
        "steps": [
            {"op": "mask_pii"},
            {"op": "blocked_words", "params": {"words": ["darn"], "action": "mask"}},
        ],
    }
    result = build(jsonl(lines), parse_recipe(json.dumps(recipe)))
    paths = sorted((result.folder / "data").iterdir())
    assert sum(pq.read_metadata(path).num_rows for path in paths) == 12
    training, held_out = read_both(paths, paths, 0)
    assert {p.rejected.content for p in (*training, *held_out)} == {"Ring [PHONE], ***."}
