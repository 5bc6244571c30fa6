"""Writes a dataset version: zstd Parquet, `report.json`, `manifest.json`, and the id made from what it says.

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
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.data_governance.ingest import BadRowNote
from services.data_governance.rows import Row
from shared.contracts.recipe import Recipe

MANIFEST_VERSION = 1
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
PART_ROWS = 250_000
GROUP_ROWS = 8_192
GROUP_CHARS = 16 * 1024 * 1024
SCHEMA = pa.schema(
    [
        pa.field("_row_id", pa.string(), nullable=False),
        pa.field("_source_line", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("text", pa.string()),
        pa.field("label", pa.string()),
        pa.field("meta", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)


BAD_ROWS = "bad_rows.parquet"
BAD_SCHEMA = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),
        pa.field("byte", pa.int64()),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


class VersionWriter:
    """A version being written in a hidden folder beside its place; `publish` names it, leaving without removes it."""

    def __init__(self, out_dir: Path) -> None:
        self._out = out_dir
        self.folder = out_dir / f".writing-{uuid.uuid4().hex}"
        (self.folder / "data").mkdir(parents=True)
        self._rows: list[tuple[Row, str]] = []
        self._chars = 0
        self._hashes = bytearray()
        self._writer: pq.ParquetWriter | None = None
        self._parts: list[tuple[str, int]] = []
        self._bad: list[BadRowNote] = []
        self._bad_writer: pq.ParquetWriter | None = None
        self.counts = {"train": 0, "validation": 0}

    def __enter__(self) -> VersionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self._writer, self._bad_writer):
            if writer is not None:
                writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, row: Row, split: str) -> None:
        """Row groups and parts are cut by the rows alone, so the files too are the same each time."""
        self._rows.append((row, split))
        self._chars += sum(map(len, row.texts())) + len(row.meta)
        self._hashes += _row_hash(row, split)
        self.counts[split] += 1
        if len(self._rows) >= GROUP_ROWS or self._chars >= GROUP_CHARS:
            self._flush()

    def add_bad(self, note: BadRowNote) -> None:
        """Takes down a row of the source that could not be read."""
        self._bad.append(note)
        if len(self._bad) >= GROUP_ROWS:
            self._flush_bad()

    def publish(
        self, recipe: Recipe, operators: dict[str, int], source: dict[str, Any], report: dict[str, Any]
    ) -> dict[str, Any]:
        """Moves the version to `out_dir/<id>` in one step and returns its manifest.

        When that folder is there already it holds the same rows, and stays as it is.
        """
        self._flush()
        if self._writer is None:
            self._open_part()
        self._close_part()
        self._flush_bad()
        if self._bad_writer is not None:
            self._bad_writer.close()
        logical = _logical_hash(bytes(self._hashes))
        columns = [
            {"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in SCHEMA
        ]
        identity = {
            "schema": columns,
            "logical_hash": logical,
            "recipe": recipe.canonical(),
            "operators": operators,
            "seed": recipe.seed,
            "parents": [f"sha256:{source['sha256']}"],
        }
        version = "dsv-" + hashlib.sha256(canonical(identity).encode()).hexdigest()[:32]
        _write(self.folder / "report.json", {"version_id": version, **report})
        files = [_described(self.folder, name, rows) for name, rows in self._parts]
        if self._bad_writer is not None:
            files.append(_described(self.folder, BAD_ROWS, report["bad_rows"]["total"]))
        manifest = {
            "manifest_version": MANIFEST_VERSION,
            "version_id": version,
            "logical_hash": logical,
            "rows": {"total": sum(self.counts.values()), **self.counts},
            "columns": columns,
            "recipe": recipe.model_dump(mode="json"),
            "operators": operators,
            "seed": recipe.seed,
            "parents": identity["parents"],
            "source": source,
            "gate": report["gate"],
            "files": [*files, _described(self.folder, "report.json", None)],
        }
        _write(self.folder / "manifest.json", manifest)
        _publish(self.folder, self._out / version)
        return manifest

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._open_part()
        assert self._writer is not None
        self._writer.write_table(_table(self._rows), row_group_size=GROUP_ROWS)
        name, rows = self._parts[-1]
        self._parts[-1] = (name, rows + len(self._rows))
        self._rows, self._chars = [], 0
        if self._parts[-1][1] >= PART_ROWS:
            self._close_part()

    def _flush_bad(self) -> None:
        if not self._bad:
            return
        if self._bad_writer is None:
            self._bad_writer = pq.ParquetWriter(self.folder / BAD_ROWS, BAD_SCHEMA, compression="zstd")
        columns = {name: [getattr(note, name) for note in self._bad] for name in BAD_SCHEMA.names}
        self._bad_writer.write_table(pa.table(columns, schema=BAD_SCHEMA))
        self._bad = []

    def _open_part(self) -> None:
        name = f"data/part-{len(self._parts):05d}.parquet"
        self._writer = pq.ParquetWriter(self.folder / name, SCHEMA, compression="zstd")
        self._parts.append((name, 0))

    def _close_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _row_hash(row: Row, split: str) -> bytes:
    """32 bytes over all columns of the row."""
    values = [row.row_id, row.line, row.id, row.messages, row.text, row.label, row.meta, split]
    return hashlib.sha256(_encode(values).encode()).digest()


def _logical_hash(hashes: bytes) -> str:
    """SHA-256 over the row hashes in sorted order, so that the order of rows does not matter."""
    words = np.frombuffer(hashes, dtype=">u8").reshape(-1, 4)
    ranked = words[np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))]
    return hashlib.sha256(np.ascontiguousarray(ranked).tobytes()).hexdigest()


def _table(rows: list[tuple[Row, str]]) -> pa.Table:
    columns = {
        "_row_id": [row.row_id for row, _ in rows],
        "_source_line": [row.line for row, _ in rows],
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
