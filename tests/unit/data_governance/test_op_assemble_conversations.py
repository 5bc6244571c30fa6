"""Messages of one row each become conversations, wherever in the source they stand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from services.data_governance.build import VersionResult
from shared.contracts.recipe_text import InvalidRecipe, parse_recipe

SENDERS = ("客户", "客服")
Build = Callable[..., VersionResult]
PARAMS = {
    "key": "session",
    "role": "sender",
    "order": "at",
    "roles": {"客户": "user", "客服": "assistant"},
}


def _recipe(**params: Any) -> Any:
    steps = [
        {"op": "normalize_text"},
        {"op": "assemble_conversations", "params": {**PARAMS, **params}},
        {"op": "drop_broken"},
        {"op": "exact_duplicates"},
    ]
    return parse_recipe({"input": {"text": "said", "label": "topic"}, "steps": steps})


def _messages() -> list[dict[str, Any]]:
    """60 conversations of four messages, all mixed."""
    rows = [
        {
            "session": f"s{n}",
            "sender": ("客户", "客服")[turn % 2],
            "at": n + turn / 10,
            "said": f"话 {n} {turn}",
            "topic": "x",
        }
        for n in range(60)
        for turn in range(4)
    ]
    random.Random(3).shuffle(rows)
    return rows


def _rows(result: VersionResult) -> list[dict[str, Any]]:
    parts = sorted((result.folder / "data").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


@pytest.mark.parametrize("part_bytes", [10**9, 3000])
def test_messages_become_conversations_in_their_order(part_bytes: int, jsonl: Any, build: Build) -> None:
    result = build(jsonl(_messages()), _recipe(), part_bytes=part_bytes)
    rows = _rows(result)
    assert len(rows) == 60
    for row in rows:
        number = json.loads(row["meta"])["session"].removeprefix("s")
        assert [m["content"] for m in row["messages"]] == [f"话 {number} {turn}" for turn in range(4)]
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * 2
        assert (row["label"], len(row["_parents"])) == ("x", 4)
        assert "sender" not in json.loads(row["meta"])
    assert result.report["dropped"] == {"joined": 180}
    assert (result.report["rows_in"], result.report["rows_kept"]) == (240, 60)


def test_where_a_file_was_cut_makes_no_difference(jsonl: Any, build: Build, tmp_path: Path) -> None:
    path = jsonl(_messages())
    one = build(path, _recipe(), out_dir=tmp_path / "a")
    cut = build(path, _recipe(), out_dir=tmp_path / "b", part_bytes=2000)
    assert (one.id, one.report) == (cut.id, cut.report)


def test_messages_of_one_speaker_in_a_row_are_joined(jsonl: Any, build: Build) -> None:
    said = [("客户", "在吗"), ("客户", "我要退货"), ("客服", "好的")]
    rows = [{"session": 1, "sender": who, "at": at, "said": text} for at, (who, text) in enumerate(said)]
    (row,) = _rows(
        build(
            jsonl(rows), parse_recipe({"input": {"text": "said"}, "steps": [_recipe().steps[1].model_dump()]})
        )
    )
    assert [m["content"] for m in row["messages"]] == ["在吗\n我要退货", "好的"]


def test_a_row_without_its_key_stays_as_it_is(jsonl: Any, build: Build) -> None:
    rows = [
        {"said": "alone"},
        {"session": "a", "sender": "客户", "at": "2026-01-02", "said": "q"},
        {"session": "a", "sender": "客服", "at": "2026-01-03T08:00:00+08:00", "said": "r"},
    ]
    recipe = parse_recipe({"input": {"text": "said"}, "steps": [_recipe().steps[1].model_dump()]})
    alone, together = _rows(build(jsonl(rows), recipe))
    assert (alone["text"], alone["messages"], alone["_parents"]) == ("alone", None, None)
    assert [m["content"] for m in together["messages"]] == ["q", "r"]


def test_a_conversation_without_end_is_dropped_whole(jsonl: Any, build: Build) -> None:
    result = build(jsonl(_messages()), _recipe(max_messages=3))
    assert result.report["dropped"] == {"too_many_messages": 240}


def test_duplicates_may_not_be_judged_before_the_conversation_is_whole() -> None:
    steps = [{"op": "exact_duplicates"}, {"op": "assemble_conversations", "params": PARAMS}]
    with pytest.raises(InvalidRecipe, match="must come before `exact_duplicates`"):
        parse_recipe({"input": {"text": "said"}, "steps": steps})
