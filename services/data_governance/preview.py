"""Reads some rows of a published version, a row group at a time. Knows no queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.data_governance.versions import BAD_ROWS

COLUMNS = ["_row_id", "_source_line", "id", "messages", "text", "label", "split"]
MAX_CHARS = 4_000_000


def preview(folder: Path, *, split: str | None, offset: int, limit: int) -> dict[str, Any]:
    """`{"rows": [...], "total": n}`: `limit` rows from `offset` of the split (or all), and how many there are.

    Rows come in stored order; the answer ends early where it would grow past MAX_CHARS characters.
    """
    rows: list[dict[str, Any]] = []
    total = chars = 0
    for part in sorted((folder / "data").glob("*.parquet")):
        with pq.ParquetFile(part) as source:
            for group in range(source.num_row_groups):
                splits = source.read_row_group(group, columns=["split"]).column("split")
                matching = len(splits) if split is None else pc.sum(pc.equal(splits, split)).as_py() or 0
                wanted = matching and total + matching > offset and len(rows) < limit and chars < MAX_CHARS
                if wanted:
                    table = source.read_row_group(group, columns=COLUMNS)
                    if split is not None:
                        table = table.filter(pc.equal(table.column("split"), split))
                    skip = max(0, offset - total)
                    for row in table.slice(skip, limit - len(rows)).to_pylist():
                        rows.append(row)
                        chars += len(row["text"] or "") + sum(
                            len(m["content"]) for m in row["messages"] or ()
                        )
                        if chars >= MAX_CHARS:
                            break
                total += matching
    return {"rows": rows, "total": total}


def bad_rows(folder: Path, *, offset: int, limit: int) -> dict[str, Any]:
    """The same of the source's bad rows: `line`, `byte`, `code` and `message` of each, in the source's order."""
    path = folder / BAD_ROWS
    if not path.is_file():
        return {"rows": [], "total": 0}
    rows: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as source:
        start = 0
        for group in range(source.num_row_groups):
            size = source.metadata.row_group(group).num_rows
            if start + size > offset and len(rows) < limit:
                table = source.read_row_group(group)
                rows += table.slice(max(0, offset - start), limit - len(rows)).to_pylist()
            start += size
    return {"rows": rows, "total": start}
