"""One recipe with every way of changing and judging rows, from a file to a version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.data_governance.operators import OPERATORS
from services.data_governance.rows import Message, Row
from shared.contracts.recipe_text import parse_recipe
from shared.contracts.steps.drop_repetitive import DropRepetitive
from shared.contracts.steps.filter_language import FilterLanguage
from shared.contracts.steps.quality_filter import QualityFilter

SAMPLE = Path("deploy/samples/service_dialogues.jsonl")
RECIPE = """
input: {text: body, label: kind}
steps:
  - op: map_fields
    params:
      changes:
        - {do: concat, fields: [title, text], to: text, separator: "\\n"}
        - {do: cast, field: amount, type: float}
        - {do: cast, field: day, type: date}
  - {op: strip_markup}
  - {op: normalize_text}
  - {op: convert_chinese}
  - {op: filter_language, params: {keep: [zh]}}
  - {op: quality_filter}
  - {op: drop_repetitive}
  - {op: blocked_words, params: {words: [刷单]}}
  - {op: mask_pii, params: {types: [phone, name], actions: {phone: hash}, salt: invented salt}}
  - {op: map_labels, params: {labels: {退貨: refund}, unknown: default, default: other}}
  - op: check_rows
    params:
      checks:
        - {field: amount, type: float, min: 0}
        - {field: day, type: date, required: true}
split: {validation: 0}
"""


def _source(**fields: Any) -> dict[str, Any]:
    return {"title": "售后", "body": "我的訂單還沒有收到，請幫我查一下", "kind": "退貨", "amount": "1,299.00",
            "day": "2026年3月5日", **fields}  # fmt: skip


def test_a_recipe_of_many_operators_leaves_what_each_promises(
    jsonl: Callable[..., Path], build: Callable[..., Any]
) -> None:
    path = jsonl(
        [
            _source(body="<p>我的&nbsp;訂單還沒有收到，聯繫人：李明華，電話１３８００１３８０００</p>"),
            _source(body="Where is my order? I have been waiting for it for two weeks."),
            _source(body="═" * 60),
            _source(body="點擊領取優惠券立即下單享受折扣" * 20),
            _source(body="兼职刷单，日结工资，欢迎联系我们加入"),
            _source(kind="未知", amount="-5"),
            _source(amount="很多"),
            _source(day=""),
        ]
    )
    result = build(path, parse_recipe(RECIPE))
    report = result.report
    assert report["rows_in"] == 8
    assert report["rows_kept"] == 1
    assert set(report["dropped"]) == {
        "language", "few_letters", "repeated_ngrams", "blocked_words", "check:amount:min", "cast:amount",
        "check:day:required",
    }  # fmt: skip
    changed = set(report["changed"])
    assert {
        "markup_tags",
        "chinese_converted",
        "pii_phone",
        "pii_name",
        "label_renamed",
        "cast:day",
    } <= changed


@pytest.mark.parametrize(
    ("op", "step"),
    [
        ("quality_filter", QualityFilter(op="quality_filter")),
        ("drop_repetitive", DropRepetitive(op="drop_repetitive")),
        ("filter_language", FilterLanguage(op="filter_language")),
    ],
)
def test_the_defaults_keep_the_dialogues_of_the_sample(op: str, step: Any) -> None:
    rows = [
        Row(
            str(line),
            line,
            str(line),
            tuple(Message(m["role"], m["content"]) for m in turns),
            None,
            None,
            "{}",
        )
        for line, turns in enumerate(_dialogues(), start=1)
    ]
    assert len(rows) > 1_000
    dropped = OPERATORS[op](step)(rows).dropped
    assert len(dropped) <= len(rows) * 0.01


def _dialogues() -> Iterator[list[dict[str, Any]]]:
    """The whole conversations of the sample, which has broken lines too."""
    for line in SAMPLE.read_bytes().splitlines():
        try:
            turns = json.loads(line)["messages"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(turns, list) and all(
            isinstance(m.get("content"), str) and m.get("role") for m in turns
        ):
            yield turns
