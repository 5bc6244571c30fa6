"""Writes a dataset version: zstd Parquet, `report.json`, `manifest.json`, and the id made from what it says.

Each part of a build leaves a Parquet file and the sorted hashes of its rows; `publish` makes a version of them all.

Where the source had rows that could not be read, `bad_rows.parquet` has the place and the reason of each.

The id is `dsv-` and 32 hex digits of the SHA-256 over schema, logical hash (of the sorted hashes of all rows),
recipe, operator versions, seed and parents: Parquet bytes differ between writer versions, rows do not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.data_governance.ingest import BadRowNote
from services.data_governance.rows import Row
from shared.contracts.recipe import Recipe

MANIFEST_VERSION = 2
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
GROUP_ROWS = 8_192
GROUP_CHARS = 16 * 1024 * 1024
SCHEMA = pa.schema(
    [
        pa.field("_row_id", pa.string(), nullable=False),
        pa.field("_source", pa.int32(), nullable=False),
        pa.field("_source_line", pa.int64(), nullable=False),
        pa.field("_parents", pa.list_(pa.string())),
        pa.field("id", pa.string(), nullable=False),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("text", pa.string()),
        pa.field("label", pa.string()),
        pa.field("meta", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)


DATA = "data.parquet"
HASHES = "hashes.npy"
BAD_ROWS = "bad_rows.parquet"
# The hashes of all rows are sorted a share of their values at a time.
HASH_SHARES = 16
BAD_SCHEMA = pa.schema(
    [
        pa.field("source", pa.int32(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("byte", pa.int64()),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


class PartWriter:
    """The rows of one part, in their order; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[tuple[Row, str]] = []
        self._chars = 0
        self._hashes = bytearray()
        self._writer = pq.ParquetWriter(folder / DATA, SCHEMA, compression="zstd")

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            words = np.frombuffer(bytes(self._hashes), dtype=">u8").reshape(-1, 4)
            np.save(self._folder / HASHES, _sorted(words))
        self._writer.close()

    def add(self, row: Row, split: str) -> None:
        """Row groups are cut by the rows alone, so that the file too is the same each time."""
        self._rows.append((row, split))
        self._chars += sum(map(len, row.texts())) + len(row.meta)
        self._hashes += _row_hash(row, split)
        if len(self._rows) >= GROUP_ROWS or self._chars >= GROUP_CHARS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(_table(self._rows), row_group_size=GROUP_ROWS)
        self._rows, self._chars = [], 0


class BadRowWriter:
    """The rows of a part of input `source` that could not be read; no file where there was none. A context manager."""

    def __init__(self, folder: Path, source: int) -> None:
        self._path = folder / BAD_ROWS
        self._source = source
        self._held: list[BadRowNote] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> BadRowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, note: BadRowNote) -> None:
        self._held.append(note)
        if len(self._held) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, BAD_SCHEMA, compression="zstd")
        columns: dict[str, Any] = {name: [getattr(note, name) for note in self._held] for name in _NOTED}
        columns["source"] = [self._source] * len(self._held)
        self._writer.write_table(pa.table(columns, schema=BAD_SCHEMA))
        self._held = []


_NOTED = ("line", "byte", "code", "message")


def publish(
    out_dir: Path,
    recipe: Recipe,
    operators: dict[str, int],
    sources: Sequence[dict[str, Any]],
    report: dict[str, Any],
    parts: Sequence[tuple[Path, int]],
    bad_parts: Sequence[Path],
) -> dict[str, Any]:
    """Makes `out_dir/<id>` of the folders of parts, with the rows of each, in one step; returns the manifest.

    When that folder is there already it holds the same rows, and stays as it is.
    """
    logical = _logical_hash([folder / HASHES for folder, _ in parts])
    columns = [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in SCHEMA]
    parents = sorted({f"sha256:{source['sha256']}" for source in sources})
    identity = {
        "schema": columns,
        "logical_hash": logical,
        "recipe": recipe.canonical(),
        "operators": operators,
        "seed": recipe.seed,
        "parents": parents,
    }
    version = "dsv-" + hashlib.sha256(canonical(identity).encode()).hexdigest()[:32]
    folder = out_dir / f".writing-{uuid.uuid4().hex}"
    try:
        (folder / "data").mkdir(parents=True)
        files: list[dict[str, Any]] = []
        for folder_of, rows in parts:
            if rows or (folder_of, rows) == parts[0]:
                name = f"data/part-{len(files):05d}.parquet"
                _link_or_copy(folder_of / DATA, folder / name)
                files.append(_described(folder, name, rows))
        if report["bad_rows"]["total"]:
            _join_bad(bad_parts, folder / BAD_ROWS)
            files.append(_described(folder, BAD_ROWS, report["bad_rows"]["total"]))
        _write(folder / "report.json", {"version_id": version, **report})
        manifest = {
            "manifest_version": MANIFEST_VERSION,
            "version_id": version,
            "logical_hash": logical,
            "rows": {"total": report["rows_kept"], **report["splits"]},
            "columns": columns,
            "recipe": recipe.model_dump(mode="json"),
            "operators": operators,
            "seed": recipe.seed,
            "parents": parents,
            "sources": list(sources),
            "gate": report["gate"],
            "files": [*files, _described(folder, "report.json", None)],
        }
        _write(folder / "manifest.json", manifest)
        _publish(folder, out_dir / version)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _join_bad(folders: Sequence[Path], target: Path) -> None:
    with pq.ParquetWriter(target, BAD_SCHEMA, compression="zstd") as out:
        for folder in folders:
            if (folder / BAD_ROWS).is_file():
                with pq.ParquetFile(folder / BAD_ROWS) as source:
                    for group in range(source.num_row_groups):
                        out.write_table(source.read_row_group(group))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _row_hash(row: Row, split: str) -> bytes:
    """32 bytes over all columns of the row."""
    values = [
        *(row.row_id, row.source, row.line, row.parents, row.id, row.messages, row.text, row.label, row.meta),
        split,
    ]
    return hashlib.sha256(_encode(values).encode()).digest()


def _sorted(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Hashes, four words of 64 bits each, in the order of their bytes."""
    ranked: np.ndarray[Any, Any] = words[np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))]
    return ranked


def _logical_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the row hashes in sorted order, so that neither the order of rows nor their parts matter."""
    digest = hashlib.sha256()
    edges = [share * (2**64 // HASH_SHARES) for share in range(HASH_SHARES)]
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        words = [_between(np.load(path, mmap_mode="r"), low, high) for path in paths]
        digest.update(np.ascontiguousarray(_sorted(np.concatenate(words))).tobytes())
    return digest.hexdigest()


def _between(words: np.ndarray[Any, Any], low: int, high: int | None) -> np.ndarray[Any, Any]:
    first = words[:, 0]
    start = np.searchsorted(first, np.uint64(low))
    end = len(first) if high is None else np.searchsorted(first, np.uint64(high))
    return np.array(words[start:end])


def _table(rows: list[tuple[Row, str]]) -> pa.Table:
    columns = {
        "_row_id": [row.row_id for row, _ in rows],
        "_source": [row.source for row, _ in rows],
        "_source_line": [row.line for row, _ in rows],
        "_parents": [list(row.parents) if row.parents else None for row, _ in rows],
        "id": [row.id for row, _ in rows],
        "messages": _messages([row for row, _ in rows]),
        "text": [row.text for row, _ in rows],
        "label": [row.label for row, _ in rows],
        "meta": [row.meta for row, _ in rows],
        "split": [split for _, split in rows],
    }
    return pa.table(columns, schema=SCHEMA)


def _messages(rows: list[Row]) -> pa.Array:
    """All turns in two flat columns with the offset of each row: far faster than a dict for every turn."""
    turns = [turn for row in rows for turn in row.messages or ()]
    offsets: list[int | None] = []
    total = 0
    for row in rows:
        offsets.append(None if row.messages is None else total)
        total += len(row.messages or ())
    flat = pa.StructArray.from_arrays(
        [pa.array([m.role for m in turns], pa.string()), pa.array([m.content for m in turns], pa.string())],
        names=["role", "content"],
    )
    return pa.ListArray.from_arrays(pa.array([*offsets, total], pa.int32()), flat)


def _write(path: Path, value: object) -> None:
    with path.open("w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=False, indent=1, allow_nan=False)
        out.write("\n")


def _described(folder: Path, name: str, rows: int | None) -> dict[str, Any]:
    path = folder / name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    found: dict[str, Any] = {"path": name, "bytes": path.stat().st_size, "sha256": digest}
    return found if rows is None else {**found, "rows": rows}


def _publish(folder: Path, target: Path) -> None:
    """A version folder is there whole or not at all; the manifest is written last."""
    with (folder / "manifest.json").open("rb") as file:
        os.fsync(file.fileno())
    try:
        folder.rename(target)
    except OSError:
        if not (target / "manifest.json").is_file():
            raise
