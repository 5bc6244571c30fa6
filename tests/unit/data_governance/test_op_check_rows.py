"""Declared checks of fields: each condition by its name, all of them at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from services.data_governance.operators.check_rows import Checked
from services.data_governance.rows import Outcome, Row
from shared.contracts.recipe_text import InvalidRecipe, parse_recipe
from shared.contracts.steps.check_rows import CheckRows

MakeRow = Callable[..., Row]


def _run(rows: list[Row], *checks: dict[str, Any]) -> Outcome:
    return Checked(CheckRows.model_validate({"op": "check_rows", "params": {"checks": list(checks)}}))(rows)


@pytest.mark.parametrize(
    ("check", "right", "wrong", "condition"),
    [
        ({"required": True}, [0, "", False], [None], "required"),
        ({"type": "int"}, [1, None, -(10**30)], [1.0, "1", True, [1]], "type"),
        ({"type": "float"}, [1.5, None], [1, "1.5"], "type"),
        ({"type": "number"}, [1, 1.5], ["1", True, {}], "type"),
        ({"type": "bool"}, [True, False], [1, "true"], "type"),
        ({"type": "str"}, ["", "x"], [1, ["x"]], "type"),
        ({"type": "date"}, ["2026-03-05"], ["2026-3-5", "2026-02-30", 20260305], "type"),
        ({"type": "datetime"}, ["2026-03-05T14:30:00"], ["2026-03-05", "14:30"], "type"),
        ({"min": 0}, [0, 5.5, 10**400, None], [-1, -0.5, -(10**400)], "min"),
        ({"max": 9.5}, [9.5, -3], [10, 9.6], "max"),
        ({"allowed": ["甲", 1, True]}, ["甲", 1, 1.0, True, None], ["乙", "1", 2, False], "allowed"),
        ({"pattern": "[A-Z]{2}[0-9]+"}, ["AB12"], ["xAB12", "AB12\n", "ab1"], "pattern"),
        ({"min_length": 2}, ["你好", None], ["我", ""], "min_length"),
        ({"max_length": 2}, ["你好", ""], ["你好吗"], "max_length"),
    ],
)
def test_each_condition_drops_what_breaks_it_and_nothing_else(
    check: dict[str, Any], right: list[Any], wrong: list[Any], condition: str, row: MakeRow
) -> None:
    rows = [row(text="t", meta=json.dumps({"f": value}), line=at) for at, value in enumerate(right + wrong)]
    outcome = _run(rows, {"field": "f", **check})
    assert [r.line for r in outcome.kept] == list(range(len(right)))
    assert [d.rule for d in outcome.dropped] == [f"check:f:{condition}"] * len(wrong)


def test_all_broken_conditions_are_told_and_no_value_is(row: MakeRow) -> None:
    outcome = _run(
        [row(text="秘密", label="甲乙", meta='{"n":-7}')],
        {"field": "text", "min_length": 5},
        {"field": "label", "allowed": ["x"]},
        {"field": "n", "min": 0},
    )
    assert outcome.dropped[0].rule == "check:text:min_length"
    assert outcome.dropped[0].reason == "it breaks text:min_length, label:allowed, n:min"


def test_a_missing_column_is_null(row: MakeRow) -> None:
    rows = [row(text="t")]
    assert _run(rows, {"field": "f", "min": 1}).kept == rows
    assert [d.rule for d in _run(rows, {"field": "f", "required": True}).dropped] == ["check:f:required"]


def test_what_asks_for_a_number_refuses_text(row: MakeRow) -> None:
    outcome = _run([row(text="t", meta='{"f":"12"}')], {"field": "f", "min": 1})
    assert [d.rule for d in outcome.dropped] == ["check:f:type"]


def test_a_conversation_is_checked_as_its_turns(row: MakeRow) -> None:
    rows = [row("订单1", "好", line=1), row("你好", "好", line=2)]
    assert [r.line for r in _run(rows, {"field": "text", "pattern": "(?s)订单.*"}).kept] == [1]


def test_no_rows_are_no_fault() -> None:
    assert _run([], {"field": "f", "required": True}) == Outcome()


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ({"field": "f"}, "asks for nothing"),
        ({"field": "f", "min": 3, "max": 1}, "above `max`"),
        ({"field": "f", "type": "str", "min": 1}, "is for numbers"),
        ({"field": "f", "type": "int", "pattern": "x"}, "is for text"),
        ({"field": "f", "min": 1, "pattern": "x"}, "one of them"),
        ({"field": "f", "pattern": "(?=x)"}, "linear time"),
        ({"field": "f", "pattern": "["}, "linear time"),
        ({"field": "f", "mim": 1}, "did you mean `min`"),
    ],
)
def test_checks_that_cannot_work_are_refused(check: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe({"steps": [{"op": "check_rows", "params": {"checks": [check]}}]})
    assert says in caught.value.message


def test_a_field_has_one_check() -> None:
    checks = [{"field": "f", "min": 1}, {"field": "f", "max": 2}]
    with pytest.raises(InvalidRecipe, match="two checks"):
        parse_recipe({"steps": [{"op": "check_rows", "params": {"checks": checks}}]})
