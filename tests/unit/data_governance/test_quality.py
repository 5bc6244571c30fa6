"""What the report tells of the lengths of rows, however many parts gathered it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.data_governance.build import VersionResult
from shared.contracts.recipe_text import parse_recipe

RECIPE = parse_recipe({"input": {"text": "text"}, "split": {"validation": 0}})


def _lengths(build: Callable[..., VersionResult], source: Path, **options: Any) -> dict[str, int]:
    lengths: dict[str, int] = build(source, RECIPE, **options).report["lengths"]
    return lengths


def test_a_row_counts_in_the_bucket_whose_lower_bound_it_reaches(
    jsonl: Callable[..., Path], build: Callable[..., VersionResult]
) -> None:
    source = jsonl([{"text": "字" * size} for size in (1, 2, 3, 4, 7, 8, 1023, 1024)])
    assert _lengths(build, source) == {"1": 1, "2": 2, "4": 2, "8": 1, "512": 1, "1024": 1}


def test_a_build_in_parts_tells_the_lengths_that_a_whole_one_tells(
    jsonl: Callable[..., Path], build: Callable[..., VersionResult], tmp_path: Path
) -> None:
    source = jsonl([{"text": f"{n} " + "好" * (n % 90)} for n in range(400)])
    whole = _lengths(build, source)
    assert sum(whole.values()) == 400
    assert _lengths(build, source, part_bytes=4_000, out_dir=tmp_path / "parts") == whole
