"""Labels renamed and merged, and what becomes of unknown ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.data_governance.operators.map_labels import Labels
from services.data_governance.rows import Outcome, Row
from shared.contracts.recipe_text import InvalidRecipe, parse_recipe
from shared.contracts.steps.map_labels import MapLabels

MakeRow = Callable[..., Row]
LABELS = {"退货": "refund", "退款": "refund", "Ship": "shipping"}


def _run(rows: Sequence[Row], **params: Any) -> Outcome:
    params = {"labels": LABELS, **params}
    return Labels(MapLabels.model_validate({"op": "map_labels", "params": params}))(rows)


def _rows(row: MakeRow) -> list[Row]:
    labels = ["退货", "退款", "refund", "其他", None]
    return [row(text="x", label=label, line=at) for at, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("params", "labels"),
    [
        ({}, ["refund", "refund", "refund", "其他", None]),
        ({"unknown": "drop"}, ["refund", "refund", "refund", None]),
        ({"unknown": "default", "default": "other"}, ["refund", "refund", "refund", "other", None]),
    ],
)
def test_unknown_labels_are_kept_dropped_or_defaulted(
    params: dict[str, Any], labels: list[str | None], row: MakeRow
) -> None:
    assert [r.label for r in _run(_rows(row), **params).kept] == labels


def test_changes_and_drops_are_told_by_rule(row: MakeRow) -> None:
    outcome = _run(_rows(row), unknown="drop")
    assert [change.rules for change in outcome.changed] == [{"label_renamed": 1}] * 2
    assert [(drop.row.line, drop.rule) for drop in outcome.dropped] == [(3, "unknown_label")]
    assert "其他" not in outcome.dropped[0].reason


def test_case_and_width_are_folded_when_asked_for(row: MakeRow) -> None:
    rows = [row(text="x", label=label) for label in ("ＳＨＩＰ ", "ship")]
    assert [r.label for r in _run(rows).kept] == ["ＳＨＩＰ ", "ship"]
    assert [r.label for r in _run(rows, fold=True).kept] == ["shipping", "shipping"]


def test_a_default_without_its_use_is_refused() -> None:
    step = {"op": "map_labels", "params": {"labels": LABELS, "default": "other"}}
    with pytest.raises(InvalidRecipe, match="only there"):
        parse_recipe({"steps": [step]})
