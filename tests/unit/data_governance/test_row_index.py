"""Rows found by id in the files of a version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data_governance.build import VersionResult
from services.data_governance.lineage import row_index


def write(folder: Path, parts: Sequence[Sequence[str]]) -> Path:
    """A version's files with rows of these ids, two to a row group."""
    (folder / "data").mkdir(parents=True)
    line = 0
    for number, ids in enumerate(parts):
        lines = list(range(line + 1, line + 1 + len(ids)))
        line += len(ids)
        table = pa.table({"_row_id": list(ids), "_source_line": lines, "id": [f"c{n}" for n in lines]})
        pq.write_table(table, folder / "data" / f"part-{number:05d}.parquet", row_group_size=2)
    return folder


def test_rows_are_found_across_parts_and_row_groups(tmp_path: Path) -> None:
    ids = [f"row-{number:032x}" for number in range(7)]
    folder = write(tmp_path / "v", [ids[:3], ids[3:]])
    found = row_index.find(folder, tmp_path / "cache", [ids[6], "row-" + "f" * 32, ids[0]])
    assert [(row["row_id"], row["line"], row["id"]) for row in found] == [
        (ids[0], 1, "c1"),
        (ids[6], 7, "c7"),
    ]


def test_an_id_that_only_begins_alike_is_not_taken_for_another(tmp_path: Path) -> None:
    mine, alike = "row-" + "a" * 31 + "1", "row-" + "a" * 31 + "2"
    folder = write(tmp_path / "v", [[mine, alike]])
    assert row_index.key_of(mine) == row_index.key_of(alike)
    assert [row["row_id"] for row in row_index.find(folder, tmp_path / "cache", [alike])] == [alike]


def test_ids_of_another_form_are_found_too(tmp_path: Path) -> None:
    folder = write(tmp_path / "v", [["row-1", "订单-2"]])
    assert [row["line"] for row in row_index.find(folder, tmp_path / "cache", ["订单-2"])] == [2]


@pytest.mark.parametrize(
    ("offset", "limit", "lines"), [(0, 2, [1, 2]), (2, 3, [3, 4, 5]), (4, 9, [5]), (9, 1, [])]
)
def test_rows_are_listed_in_stored_order(tmp_path: Path, offset: int, limit: int, lines: list[int]) -> None:
    folder = write(tmp_path / "v", [["a", "b", "c"], ["d", "e"]])
    page = row_index.listed(folder, offset, limit)
    assert (page["total"], [row["line"] for row in page["rows"]]) == (5, lines)


def test_every_row_of_a_built_version_is_found(
    jsonl: Callable[[Sequence[Any]], Path], build: Callable[..., VersionResult], tmp_path: Path
) -> None:
    path = jsonl([{"prompt": f"question number {n}", "completion": f"answer {n}"} for n in range(20)])
    folder = build(path).folder
    rows = row_index.listed(folder, 0, 100)["rows"]
    assert rows
    found = row_index.find(folder, tmp_path / "cache", [row["row_id"] for row in rows])
    assert found == rows
