"""Personal data is found in the set with the precision and recall that the project states, type by type."""

from __future__ import annotations

import pytest

from shared.text.pii import ALL_TYPES, find
from tests.unit.data_governance.pii_cases import PER_TYPE, TYPES, Score, negatives, positives, scores

POSITIVES, NEGATIVES = positives(), negatives()
LEAST = 0.98


@pytest.fixture(scope="module")
def measured() -> dict[str, Score]:
    return scores([*POSITIVES, *NEGATIVES])


def test_the_set_is_large_and_its_cases_differ() -> None:
    assert len({case.text for case in POSITIVES}) >= 500
    assert len({case.text for case in NEGATIVES}) >= 300
    assert set(TYPES) == set(ALL_TYPES)


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_is_found_with_the_stated_precision_and_recall(
    kind: str, measured: dict[str, Score]
) -> None:
    score = measured[kind]
    assert score.right + score.missed >= PER_TYPE
    assert score.precision >= LEAST
    assert score.recall >= LEAST


def test_the_spans_of_the_set_stand_in_its_texts() -> None:
    assert all(value in case.text for case in POSITIVES for _, value in case.spans)


def test_a_type_that_is_not_asked_for_is_not_found() -> None:
    for case in POSITIVES:
        kinds = {item.type for item in find(case.text)}
        assert kinds <= {"email", "phone", "id_card", "bank_card"}
