"""The files of a stored version, read for who downloads them. Knows no SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

BATCH_ROWS = 1_000


def parts(folder: Path) -> list[Path]:
    """The Parquet files of a version, in stored order."""
    return sorted((folder / "data").glob("*.parquet"))


def manifest(folder: Path) -> dict[str, Any]:
    """What a version says of itself."""
    told: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return told


def lines(folder: Path, split: str | None) -> Iterator[bytes]:
    """The rows (of one split, where one is named) as lines of JSON, some at a time; `meta` as the object it is."""
    for part in parts(folder):
        with pq.ParquetFile(part) as source:
            for batch in source.iter_batches(batch_size=BATCH_ROWS):
                kept = batch if split is None else batch.filter(pc.equal(batch.column("split"), split))
                yield b"".join(_line(row) for row in kept.to_pylist())


def _line(row: dict[str, Any]) -> bytes:
    told = {**row, "meta": json.loads(row["meta"])} if isinstance(row.get("meta"), str) else row
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
