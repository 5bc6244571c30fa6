"""The parts of a build on Ray: the same version as anywhere else. Ray is no dependency; without it most is skipped."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.data_governance.build import StepFailed, VersionResult
from services.data_governance.build.on_ray import OnRay
from shared.contracts.recipe_text import parse_recipe
from shared.errors import ConfigurationError, InvalidInput
from tests.bench.documents import write_documents

Build = Callable[..., VersionResult]
HAS_RAY = importlib.util.find_spec("ray") is not None
STEPS: list[dict[str, Any]] = [
    {"op": "normalize_text"},
    {"op": "exact_duplicates"},
    {"op": "near_duplicates"},
]


def _unasked() -> None:
    return None


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_asking_for_ray_without_having_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pip install ray"):
        OnRay("local", [tmp_path], _unasked)


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed")
def test_parts_on_ray_give_the_same_version(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    write_documents(path, 600)
    recipe = parse_recipe({"input": {"text": "text"}, "steps": STEPS})
    here = build(path, recipe, out_dir=tmp_path / "here", part_bytes=100_000)
    on_ray = OnRay("local", [path], _unasked)
    there = build(path, recipe, out_dir=tmp_path / "there", part_bytes=100_000, run_parts=on_ray)
    assert (here.id, here.report) == (there.id, there.report)
    long = {"op": "length_bounds", "on_drop": "fail", "params": {"min_chars": 5000}}
    strict = parse_recipe({"input": {"text": "text"}, "steps": [long]})
    with pytest.raises(InvalidInput) as caught:
        build(path, strict, out_dir=tmp_path / "strict", part_bytes=100_000, run_parts=on_ray)
    assert caught.value.code == StepFailed.code
