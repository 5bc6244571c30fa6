"""All rows of a version as one JSONL or Parquet file, a row group at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.data_governance.lineage.row_index import parts


def export(
    folder: Path, target: BinaryIO, *, format: str, split: str | None, look: Callable[[], None]
) -> int:
    """Write the rows (of one split, where one is named) in stored order; returns their number."""
    written = 0
    writer: pq.ParquetWriter | None = None
    for table in groups(folder, split):
        look()
        written += table.num_rows
        if format == "jsonl":
            for row in table.to_pylist():
                target.write(json_line(row))
        else:
            writer = writer or pq.ParquetWriter(target, table.schema, compression="zstd")
            writer.write_table(table)
    if writer is not None:
        writer.close()
    return written


def groups(folder: Path, split: str | None) -> Iterator[pa.Table]:
    """The rows group by group; the first is there even where it has no row, for its columns."""
    for part in parts(folder):
        with pq.ParquetFile(part) as source:
            if source.num_row_groups == 0:
                yield source.read()
            for number in range(source.num_row_groups):
                table = source.read_row_group(number)
                yield table if split is None else table.filter(pc.equal(table.column("split"), split))


def json_line(row: dict[str, Any]) -> bytes:
    """A row as a line; `meta`, which is JSON text, as the object that it is."""
    told = {**row, "meta": json.loads(row["meta"])} if isinstance(row.get("meta"), str) else row
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
