"""Filters over the attributes of files."""

from __future__ import annotations

from typing import Any

import pytest

from services.data_governance.retrieval.filters import passes
from shared.contracts.retrieval import Comparison, Compound, check_filter

HELD = {"name": "a", "year": 2026.0, "draft": True}


@pytest.mark.parametrize(
    ("type_", "key", "value", "told"),
    [
        ("eq", "name", "a", True),
        ("eq", "year", 2026, True),
        ("eq", "draft", 1, False),
        ("eq", "year", "2026", False),
        ("ne", "name", "b", True),
        ("ne", "gone", "b", True),
        ("eq", "gone", "b", False),
        ("gt", "year", 2025, True),
        ("gte", "year", 2026, True),
        ("lt", "year", 2026, False),
        ("lt", "name", "b", True),
        ("gt", "name", 1, False),
        ("gt", "draft", 0, False),
        ("lte", "gone", 5, False),
        ("in", "year", [1, 2026], True),
        ("in", "gone", ["a"], False),
        ("nin", "name", ["b"], True),
        ("nin", "gone", ["a"], True),
    ],
)
def test_a_comparison_is_of_one_kind_of_values(type_: Any, key: str, value: Any, told: bool) -> None:
    assert passes(Comparison(type=type_, key=key, value=value), HELD) is told


def test_compounds_hold_others() -> None:
    yes = Comparison(type="eq", key="name", value="a")
    no = Comparison(type="eq", key="name", value="b")
    assert passes(Compound(type="or", filters=[no, Compound(type="and", filters=[yes, yes])]), HELD)
    assert not passes(Compound(type="and", filters=[yes, no]), HELD)


def test_too_many_and_too_deep_are_refused() -> None:
    one = Comparison(type="eq", key="a", value=1)
    deep: Any = one
    for _ in range(9):
        deep = Compound(type="and", filters=[deep])
    with pytest.raises(ValueError, match="deeper than 8"):
        check_filter(deep)
    with pytest.raises(ValueError, match="64 comparisons"):
        check_filter(Compound(type="or", filters=[Compound(type="and", filters=[one] * 40)] * 2))
