"""What one part of a stage leaves on disk for the next: rows, keys and counts. A part is there whole or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from services.data_governance.rows import Message, Row

Array = np.ndarray[Any, Any]
ROWS = "rows.arrow"
SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("line", pa.int64()),
        ("id", pa.string()),
        ("messages", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("meta", pa.string()),
        ("source", pa.int32()),
        ("parents", pa.string()),
    ]
)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `target` at the end; where that is there already it says the same."""
    writing = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    writing.mkdir()
    try:
        yield writing
        try:
            writing.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(writing, ignore_errors=True)


class RowFile:
    """Batches of rows, written in order; a context manager."""

    def __init__(self, path: Path) -> None:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_stream(str(path), SCHEMA, options=options)

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._writer.close()

    def write(self, rows: Sequence[Row]) -> None:
        columns = {
            "row_id": [row.row_id for row in rows],
            "line": [row.line for row in rows],
            "id": [row.id for row in rows],
            "messages": [None if row.messages is None else _encode(row.messages) for row in rows],
            "text": [row.text for row in rows],
            "label": [row.label for row in rows],
            "meta": [row.meta for row in rows],
            "source": [row.source for row in rows],
            "parents": ["\n".join(row.parents) if row.parents else None for row in rows],
        }
        self._writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=SCHEMA))


def read_rows(path: Path) -> Iterator[list[Row]]:
    """The batches of a RowFile."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield list(map(_row, *(batch.column(name).to_pylist() for name in SCHEMA.names)))


def _row(
    row_id: str,
    line: int,
    identity: str,
    messages: str | None,
    text: str | None,
    label: str | None,
    meta: str,
    source: int,
    parents: str | None,
) -> Row:
    turns = None if messages is None else tuple([Message(*turn) for turn in json.loads(messages)])
    return Row(
        row_id,
        line,
        identity,
        turns,
        text,
        label,
        meta,
        source,
        tuple(parents.split("\n")) if parents else (),
    )


class KeyWriter:
    """Gathers the keys of a part's rows and writes an array a key; columns lie one after the other."""

    def __init__(self) -> None:
        self._held: dict[str, list[Array]] = {}

    def add(self, keys: Mapping[str, Array]) -> None:
        for name, values in keys.items():
            self._held.setdefault(name, []).append(values)

    def write(self, folder: Path, step: int) -> None:
        for name, held in self._held.items():
            np.save(folder / f"keys-{step}-{name}.npy", np.asfortranarray(np.concatenate(held)))


class Keys:
    """The keys of one step over all parts of a stage, in order."""

    def __init__(self, folders: Sequence[Path], step: int, counts: Sequence[int]) -> None:
        self._folders = folders
        self._step = step
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._counts = counts

    @property
    def rows(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def column(self, name: str, at: int | None = None) -> Array:
        return np.concatenate(
            [np.array(values if at is None else values[:, at]) for _, values in self._parts(name)]
        )

    def taken(self, name: str, ordinals: Array) -> Array:
        order = np.argsort(ordinals, kind="stable")
        bounds = np.searchsorted(ordinals[order], np.concatenate([[0], self._ends]))
        found: Array | None = None
        for part, values in self._parts(name):
            if found is None:
                found = np.zeros((len(ordinals), *values.shape[1:]), values.dtype)
            places = order[bounds[part] : bounds[part + 1]]
            begin = int(self._ends[part]) - self._counts[part]
            found[places] = values[ordinals[places].astype(np.int64) - begin]
        assert found is not None
        return found

    def _parts(self, name: str) -> Iterator[tuple[int, Array]]:
        for part, folder in enumerate(self._folders):
            if self._counts[part]:
                yield part, np.load(folder / f"keys-{self._step}-{name}.npy", mmap_mode="r")
