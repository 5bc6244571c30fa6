"""Rows of a version, a page at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data_governance.preview import bad_rows, preview
from services.data_governance.versions import BAD_ROWS, BAD_SCHEMA, SCHEMA


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """25 rows in groups of 4 over two files; every fifth is held out."""
    (tmp_path / "data").mkdir()
    rows = [
        {
            "_row_id": f"r{i}",
            "_source": 0,
            "_source_line": i + 1,
            "id": str(i),
            "messages": [{"role": "user", "content": f"问 {i}"}, {"role": "assistant", "content": "答"}],
            "text": None,
            "label": None,
            "meta": "{}",
            "split": "validation" if i % 5 == 0 else "train",
        }
        for i in range(25)
    ]
    for part, chunk in enumerate((rows[:15], rows[15:])):
        table = pa.Table.from_pylist(chunk, schema=SCHEMA)
        pq.write_table(table, tmp_path / "data" / f"part-{part:05d}.parquet", row_group_size=4)
    return tmp_path


def ids(found: dict[str, object]) -> list[str]:
    return [row["id"] for row in found["rows"]]  # type: ignore[attr-defined]


def test_pages_of_a_split_join_to_the_whole_split(version: Path) -> None:
    pages = [preview(version, split="validation", offset=offset, limit=2) for offset in (0, 2, 4)]
    assert [i for page in pages for i in ids(page)] == ["0", "5", "10", "15", "20"]
    assert {page["total"] for page in pages} == {5}


def test_without_a_split_every_row_comes_in_stored_order(version: Path) -> None:
    found = preview(version, split=None, offset=3, limit=20)
    assert ids(found) == [str(i) for i in range(3, 23)]
    assert found["total"] == 25
    assert found["rows"][0]["messages"][0] == {"role": "user", "content": "问 3"}


def test_past_the_end_there_is_nothing(version: Path) -> None:
    assert preview(version, split="train", offset=100, limit=5) == {"rows": [], "total": 20}


def test_pages_of_bad_rows_join_to_all_of_them(version: Path) -> None:
    assert bad_rows(version, offset=0, limit=5) == {"rows": [], "total": 0}
    notes = [
        {"source": 0, "line": i, "byte": None, "code": "not_json", "message": "no"} for i in range(1, 11)
    ]
    pq.write_table(pa.Table.from_pylist(notes, schema=BAD_SCHEMA), version / BAD_ROWS, row_group_size=4)
    pages = [bad_rows(version, offset=offset, limit=3) for offset in (0, 3, 6, 9)]
    assert [row for page in pages for row in page["rows"]] == notes
    assert {page["total"] for page in pages} == {10}
    assert bad_rows(version, offset=10, limit=3)["rows"] == []
