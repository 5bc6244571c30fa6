"""Finds a row in a version by its id: a sorted index beside the version's files, made at its first use.

The index is 16 bytes a row (the first 8 bytes of the id, and where the row stands) and is read by memory map, so a
search through hundreds of versions touches a few pages of each. A hit is checked against the row itself.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROW_ID = re.compile(r"row-[0-9a-f]{32}")
# What is told of a row, under the name that it has in a version's files.
TOLD = {
    "_row_id": "row_id",
    "_source": "source",
    "_source_line": "line",
    "id": "id",
    "split": "split",
    "_parents": "parents",
}
Positions = np.ndarray[Any, np.dtype[np.uint64]]


def parts(folder: Path) -> list[Path]:
    """The Parquet files of a version, in stored order."""
    return sorted((folder / "data").glob("*.parquet"))


def find(folder: Path, cache: Path, row_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Those of the rows that the version in `folder` holds. The index lies in `cache`, under the folder's name."""
    index = _index(folder, cache)
    candidates = {position for row_id in row_ids for position in _lookup(index, key_of(row_id))}
    wanted = frozenset(row_ids)
    return [row for row in _at(folder, sorted(candidates)) if row["row_id"] in wanted]


def listed(folder: Path, offset: int, limit: int) -> dict[str, Any]:
    """`{"rows", "total"}`: `limit` rows from `offset`, in stored order."""
    total = sum(pq.read_metadata(part).num_rows for part in parts(folder))
    return {"rows": _at(folder, range(offset, min(total, offset + limit))), "total": total}


def key_of(row_id: str) -> int:
    """8 bytes that stand for a row's id: ids of ours are hashes already."""
    if ROW_ID.fullmatch(row_id):
        return int(row_id[4:20], 16)
    return int.from_bytes(hashlib.blake2b(row_id.encode(), digest_size=8).digest(), "big")


def _index(folder: Path, cache: Path) -> Positions:
    path = cache / f"{folder.name}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / f".{folder.name}-{secrets.token_hex(8)}.npy"
        try:
            np.save(temporary, _sorted_keys(folder))
            # Another process may have made the same one: it holds the same bytes.
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    found: Positions = np.load(path, mmap_mode="r")
    return found


def _sorted_keys(folder: Path) -> Positions:
    keys = [np.zeros(0, np.uint64)]
    for part in parts(folder):
        with pq.ParquetFile(part) as source:
            for batch in source.iter_batches(columns=["_row_id"]):
                ids = batch.column(0).to_pylist()
                keys.append(np.fromiter(map(key_of, ids), np.uint64, len(ids)))
    joined = np.concatenate(keys)
    order = np.argsort(joined, kind="stable")
    return np.stack([joined[order], order.astype(np.uint64)])


def _lookup(index: Positions, key: int) -> list[int]:
    keys, places = index[0], index[1]
    first = int(np.searchsorted(keys, np.uint64(key), "left"))
    last = int(np.searchsorted(keys, np.uint64(key), "right"))
    return [int(place) for place in places[first:last]]


def _at(folder: Path, positions: Sequence[int]) -> list[dict[str, Any]]:
    """The rows at these places, which are sorted; reads only the row groups that hold any."""
    rows: list[dict[str, Any]] = []
    for start, table in _groups(folder, positions):
        inside = [p - start for p in positions if start <= p < start + table.num_rows]
        for row in table.take(inside).to_pylist():
            rows.append({TOLD[name]: value for name, value in row.items()})
    return rows


def _groups(folder: Path, positions: Sequence[int]) -> Iterator[tuple[int, pa.Table]]:
    start = 0
    for part in parts(folder):
        with pq.ParquetFile(part) as source:
            columns = [name for name in TOLD if name in source.schema_arrow.names]
            for number in range(source.num_row_groups):
                size = source.metadata.row_group(number).num_rows
                if any(start <= position < start + size for position in positions):
                    yield start, source.read_row_group(number, columns=columns)
                start += size
