"""What comes of several labels of one item."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.label_values import outcome, settle, similarity


def label(*names: str) -> list[dict[str, Any]]:
    return [{"label": name} for name in names]


@pytest.mark.parametrize(
    ("values", "threshold", "agreement", "value"),
    [
        (label("a"), 1.0, 1.0, {"label": "a"}),
        (label("a", "a"), 1.0, 1.0, {"label": "a"}),
        (label("a", "b"), 0.5, 0.5, None),
        (label("a", "b", "a"), 0.66, 2 / 3, {"label": "a"}),
        (label("a", "b", "a"), 0.7, 2 / 3, None),
        ([{"labels": ["a", "b"]}, {"labels": ["a"]}], 0.5, 0.5, {"labels": ["a"]}),
        ([{"text": "Yes, 好的"}, {"text": "yes,  好的 "}], 1.0, 1.0, {"text": "Yes, 好的"}),
        ([{"choice": "a"}, {"choice": "tie"}], 1.0, 0.5, None),
    ],
)
def test_labels_settle_where_they_agree_far_enough(
    values: list[dict[str, Any]], threshold: float, agreement: float, value: dict[str, Any] | None
) -> None:
    settled = settle(values, threshold)
    assert settled.agreement == pytest.approx(agreement)
    assert settled.value == value


def test_of_spans_those_stand_that_more_than_half_have() -> None:
    one, two, three = ({"start": n, "end": n + 2, "label": "x"} for n in range(3))
    values = [{"spans": [one, two]}, {"spans": [one, three]}, {"spans": [one, two]}]
    settled = settle(values, 0.6)
    assert settled.agreement == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert settled.value == {"spans": [one, two]}


def test_nothing_comes_of_labels_while_some_are_missing() -> None:
    assert outcome(label("a"), 2, 1.0) is None
    assert outcome(label("a", "b"), 2, 1.0) == {
        **{"agreement": 0.5, "state": "adjudication", "final": None, "final_by": None}
    }


def test_no_spans_and_no_labels_are_alike() -> None:
    assert similarity({"spans": []}, {"spans": []}) == similarity({"labels": []}, {"labels": []}) == 1
