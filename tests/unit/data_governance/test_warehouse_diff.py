"""Differences between versions, against rows that were changed by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data_governance.warehouse.diff import diff
from shared.errors import HeliuError

Make = Callable[[str, Sequence[tuple[str, str, str, str]]], Path]
BEFORE = [("r1", "a", "one", "train"), ("r2", "b", "two", "train"), ("r3", "c", "three", "train")]
AFTER = [("r2", "b", "zwei", "train"), ("r3", "c", "three", "validation"), ("r4", "d", "four", "train")]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a version's files with rows of (row id, id, text, split)."""

    def write(name: str, rows: Sequence[tuple[str, str, str, str]]) -> Path:
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        columns = list(zip(*rows, strict=True))
        names = ("_row_id", "id", "text", "split")
        table = pa.table({**dict(zip(names, map(list, columns), strict=True)), "meta": ["{}"] * len(rows)})
        pq.write_table(table, folder / "data" / "part-00000.parquet")
        return folder

    return write


def compare(tmp_path: Path, before: Path, after: Path, **options: Any) -> dict[str, Any]:
    asked = {"key": "row", "samples": 5, "cancelled": lambda: False, **options}
    return diff(before, after, tmp_path, **asked)


@pytest.mark.parametrize("key", ["row", "id"])
def test_rows_are_added_removed_changed_and_moved(tmp_path: Path, make: Make, key: str) -> None:
    told = compare(tmp_path, make("v1", BEFORE), make("v2", AFTER), key=key)
    assert told["counts"] == {"added": 1, "removed": 1, "changed": 1, "unchanged": 1, "moved": 1}
    (changed,) = told["samples"]["changed"]
    assert (changed["before"]["text"], changed["after"]["text"]) == ("two", "zwei")
    assert [row["after"]["text"] for row in told["samples"]["added"]] == ["four"]
    assert [(row["from"], row["to"]) for row in told["samples"]["moved"]] == [("train", "validation")]


def test_rows_of_one_id_are_each_counted_once(tmp_path: Path, make: Make) -> None:
    twice = [("r1", "a", "one", "train"), ("r2", "a", "two", "train")]
    told = compare(tmp_path, make("v1", twice), make("v2", [*twice, ("r3", "a", "three", "train")]), key="id")
    assert told["counts"] == {"added": 1, "removed": 0, "changed": 0, "unchanged": 2, "moved": 0}


def test_a_version_is_no_different_from_itself(tmp_path: Path, make: Make) -> None:
    version = make("v1", BEFORE)
    told = compare(tmp_path, version, version)
    assert told["counts"] == {"added": 0, "removed": 0, "changed": 0, "unchanged": 3, "moved": 0}
    assert told["samples"] == {"added": [], "removed": [], "changed": [], "moved": []}


def test_a_comparison_whose_client_has_gone_is_ended(tmp_path: Path, make: Make) -> None:
    rows = [(f"r{n}", f"i{n}", "x" * 50, "train") for n in range(100_000)]
    folders = make("v1", rows), make("v2", rows)
    with pytest.raises(HeliuError) as ended:
        compare(tmp_path, *folders, key="id", cancelled=lambda: True)
    assert ended.value.code == "client_closed_request"
