"""Fields renamed, set, filled, dropped, put together and cast, one change after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.data_governance.casts import CannotCast, cast
from services.data_governance.operators.map_fields import Map
from services.data_governance.rows import Outcome, Row
from shared.contracts.recipe_text import InvalidRecipe, parse_recipe
from shared.contracts.steps.map_fields import MapFields

MakeRow = Callable[..., Row]


def _run(rows: Sequence[Row], *changes: dict[str, Any]) -> Outcome:
    return Map(MapFields.model_validate({"op": "map_fields", "params": {"changes": list(changes)}}))(rows)


def _meta(outcome: Outcome) -> Any:
    return json.loads(outcome.kept[0].meta)


@pytest.mark.parametrize(
    ("changes", "after"),
    [
        ([{"do": "rename", "field": "级别", "to": "tier"}], {"tier": "A", "n": 1, "empty": " "}),
        ([{"do": "rename", "field": "none", "to": "n"}], {"级别": "A", "n": 1, "empty": " "}),
        ([{"do": "set", "field": "src", "value": "crm"}], {"级别": "A", "n": 1, "empty": " ", "src": "crm"}),
        ([{"do": "set", "field": "n", "value": True}], {"级别": "A", "n": True, "empty": " "}),
        ([{"do": "default", "field": "empty", "value": 0}], {"级别": "A", "n": 1, "empty": 0}),
        ([{"do": "drop", "fields": ["级别", "empty", "none"]}], {"n": 1}),
        ([{"do": "concat", "fields": ["级别", "empty", "n"], "to": "key", "separator": "-"}],
         {"级别": "A", "n": 1, "empty": " ", "key": "A-1"}),
        ([{"do": "rename", "field": "级别", "to": "x"}, {"do": "set", "field": "x", "value": None}],
         {"x": None, "n": 1, "empty": " "}),
    ],
)  # fmt: skip
def test_other_columns_change_one_after_the_other(
    changes: list[dict[str, Any]], after: dict[str, Any], row: MakeRow
) -> None:
    before = row(text="t", meta='{"级别":"A","n":1,"empty":" "}')
    assert _meta(_run([before], *changes)) == after


def test_the_rows_own_fields_can_be_made_of_others(row: MakeRow) -> None:
    before = row(text="正文", meta='{"标题":"标题","类别":3,"text":"other"}')
    outcome = _run(
        [before],
        {"do": "concat", "fields": ["标题", "text"], "to": "text", "separator": "\n"},
        {"do": "rename", "field": "类别", "to": "label"},
        {"do": "rename", "field": "meta.text", "to": "id"},
    )
    after = outcome.kept[0]
    assert (after.text, after.label, after.id, after.meta) == ("标题\n正文", "3", "other", '{"标题":"标题"}')
    assert outcome.changed[0].rules == {"concat:text": 1, "rename:类别": 1, "rename:meta.text": 1}


@pytest.mark.parametrize(
    ("value", "kind", "made"),
    [
        ("１，２３４", "int", 1234), ("1,234", "int", 1234), (" -5 ", "int", -5), (3.0, "int", 3), ("7.00", "int", 7),
        ("1,234.5", "float", 1234.5), ("1e3", "float", 1000.0), (2, "float", 2.0), (".5", "float", 0.5),
        ("是", "bool", True), ("FALSE", "bool", False), (0, "bool", False), ("否", "bool", False),
        ("2026年3月5日", "date", "2026-03-05"), ("2026/3/5", "date", "2026-03-05"), ("20260305", "date", "2026-03-05"),
        ("２０２６－０３－０５", "date", "2026-03-05"), ("2026-03-05 14:30", "date", "2026-03-05"),
        ("2026年3月5日 14时30分", "datetime", "2026-03-05T14:30:00"),
        ("2026-03-05T14:30:05.5+0800", "datetime", "2026-03-05T14:30:05.500000+08:00"),
        ("2026.3.5", "datetime", "2026-03-05T00:00:00"), (20260305, "date", "2026-03-05"),
        (3.0, "str", "3"), (True, "str", "true"),
    ],
)  # fmt: skip
def test_values_are_read_as_people_write_them(value: Any, kind: str, made: Any) -> None:
    got = cast(value, kind)
    assert (type(got), got) == (type(made), made)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("12a", "int"), ("1,23", "int"), (1.5, "int"), ("", "int"), ("½", "int"), ("9" * 50, "int"), ([1], "int"),
        ("nan", "float"), ("1e999", "float"), ("-", "float"), ("e5", "float"), (10**400, "float"),
        ("maybe", "bool"), (2, "bool"), ("2026-02-30", "date"), ("2026年13月1日", "date"), ("3/5", "date"),
        ("2026-03-05 25:00", "datetime"), (True, "date"), ({"a": 1}, "str"), (None, "str"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_so(value: Any, kind: str) -> None:
    with pytest.raises(CannotCast):
        cast(value, kind)


def test_a_cast_that_fails_drops_the_row_or_leaves_null(row: MakeRow) -> None:
    rows = [row(text="t", meta='{"n":"五"}', line=1), row(text="t", meta='{"n":"5"}', line=2)]
    change = {"do": "cast", "field": "n", "type": "int"}
    outcome = _run(rows, change)
    assert [(d.row.line, d.rule) for d in outcome.dropped] == [(1, "cast:n")]
    assert "五" not in outcome.dropped[0].reason
    assert _meta(outcome) == {"n": 5}
    assert _meta(_run(rows, {**change, "on_error": "null"})) == {"n": None}


def test_blank_and_missing_values_are_null_and_no_fault(row: MakeRow) -> None:
    outcome = _run([row(text="t", meta='{"n":" "}')], *[
        {"do": "cast", "field": name, "type": "int"} for name in ("n", "m")
    ])  # fmt: skip
    assert _meta(outcome) == {"n": None}


def test_a_conversation_has_no_text_to_write(row: MakeRow) -> None:
    outcome = _run([row("问", "答")], {"do": "set", "field": "text", "value": "x"})
    assert [d.rule for d in outcome.dropped] == ["text_of_turns"]


def test_a_row_is_never_without_an_id(row: MakeRow) -> None:
    outcome = _run([row(text="t")], {"do": "drop", "fields": ["id"]})
    assert [d.rule for d in outcome.dropped] == ["no_id"]


def test_a_row_that_nothing_changes_is_the_same_row(row: MakeRow) -> None:
    before = row(text="t", meta='{"n":5}')
    outcome = _run(
        [before], {"do": "cast", "field": "n", "type": "int"}, {"do": "set", "field": "n", "value": 5}
    )
    assert outcome.kept[0] is before
    assert outcome.changed == []


def test_changes_come_before_the_steps_that_read_their_fields() -> None:
    steps = [
        {"op": "check_rows", "params": {"checks": [{"field": "n", "type": "int"}]}},
        {"op": "map_fields", "params": {"changes": [{"do": "cast", "field": "n", "type": "int"}]}},
    ]
    with pytest.raises(InvalidRecipe, match=r"`map_fields` .* must come before `check_rows`"):
        parse_recipe({"steps": steps})
