"""Too frequent labels lose a fair draw of their rows; rare ones and unlabelled rows lose none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from services.data_governance.build import VersionResult
from shared.contracts.recipe_text import InvalidRecipe, parse_recipe

Build = Callable[..., VersionResult]
COUNTS = {"common": 300, "middling": 80, "rare": 20, "slip": 2, None: 30}


def _recipe(**params: Any) -> Any:
    step = {"op": "balance_labels", "params": params}
    return parse_recipe({"input": {"text": "t", "label": "l"}, "steps": [step]})


def _data() -> list[dict[str, Any]]:
    return [{"t": f"text {label} {n}", "l": label} for label, count in COUNTS.items() for n in range(count)]


def _labels(result: VersionResult) -> Counter[str | None]:
    parts = sorted((result.folder / "data").glob("*.parquet"))
    return Counter(label for part in parts for label in pq.read_table(part).column("label").to_pylist())


@pytest.mark.parametrize("part_bytes", [10**9, 2000])
def test_no_label_has_more_than_the_ratio_of_the_rarest(part_bytes: int, jsonl: Any, build: Build) -> None:
    result = build(jsonl(_data()), _recipe(max_ratio=2.0), part_bytes=part_bytes)
    assert _labels(result) == {"common": 40, "middling": 40, "rare": 20, "slip": 2, None: 30}
    assert result.report["dropped"] == {"over_represented": 300}


def test_the_lower_of_two_limits_counts(jsonl: Any, build: Build) -> None:
    assert _labels(build(jsonl(_data()), _recipe(max_ratio=2.0, max_rows=25)))["common"] == 25


def test_another_seed_draws_other_rows_of_the_same_number(jsonl: Any, build: Build, tmp_path: Path) -> None:
    path = jsonl(_data())
    one, other = (
        build(path, _recipe(max_rows=50, seed=seed), out_dir=tmp_path / str(seed)) for seed in (1, 2)
    )
    assert _labels(one) == _labels(other)
    assert one.manifest["logical_hash"] != other.manifest["logical_hash"]


def test_balancing_without_a_limit_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match="`max_ratio`, `max_rows` or both"):
        _recipe()
