"""Reads a CSV, JSONL or Parquet file as batches of rows with their line numbers, and notes what it cannot use.

Memory is bounded by the batch and the longest line, whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from services.data_governance.ingest import csv_records, jsonl
from services.data_governance.ingest.bad_rows import BadRow, BadRowNote, BadRows
from services.data_governance.ingest.lines import LineFile, head
from services.data_governance.ingest.parquet import ParquetFile
from services.data_governance.ingest.records import check_columns, row_maker
from services.data_governance.ingest.sniff import HEAD_BYTES, Format, check_encoding, detect
from services.data_governance.rows import Row
from shared.contracts.recipe import InputMapping
from shared.contracts.recipe_infer import infer_mapping

__all__ = ["BadRowNote", "BadRows", "Peek", "Source", "peek"]

BATCH_ROWS = 2048
BATCH_CHARS = 8 * 1024 * 1024
SAMPLE_ROWS = 200


@dataclass(frozen=True, slots=True)
class Peek:
    """The format, the columns in order, and the first parsed rows of a file."""

    format: Format
    columns: tuple[str, ...]
    samples: tuple[Mapping[str, Any], ...]

    def mapping(self) -> InputMapping:
        """The mapping that these rows suggest. Raises InvalidInput when none does."""
        return infer_mapping(self.columns, self.samples)


def peek(path: Path, name: str, encoding: str = "utf-8") -> Peek:
    """What the file is and how it starts. `name` is its original name. Raises InvalidInput."""
    start = head(path, HEAD_BYTES)
    kind = detect(start, name)
    if kind != "parquet":
        check_encoding(start, name, encoding)
    bad = BadRows()
    with closing(_open(path, kind)) as opened:
        rows = tuple(record for _, _, record in islice(_records(opened, kind, encoding, bad), SAMPLE_ROWS))
        columns = (
            opened.columns
            if isinstance(opened, ParquetFile)
            else tuple(dict.fromkeys(c for r in rows for c in r))
        )
    return Peek(kind, tuple(columns), rows)


@dataclass(slots=True)
class Source:
    """One reading of a file. After `batches` is exhausted, `bad` is complete.

    `rows_read` counts good and bad rows; `done` is the share of the file that was read, 0 to 1.
    """

    path: Path
    name: str
    format: Format
    mapping: InputMapping
    sha256: str
    bad: BadRows = field(default_factory=BadRows)
    rows_good: int = 0
    bytes_read: int = 0
    bytes_total: int = 0

    @classmethod
    def open(cls, path: Path, name: str, mapping: InputMapping, sha256: str) -> Source:
        """Checks format, encoding and columns. Raises InvalidInput."""
        seen = peek(path, name, mapping.encoding)
        # A JSONL row may lack any column; a column is unknown when no row of the sample has it.
        if seen.samples or seen.format == "csv":
            check_columns(mapping, seen.columns)
        return cls(path, name, seen.format, mapping, sha256, bytes_total=path.stat().st_size)

    @property
    def rows_read(self) -> int:
        return self.rows_good + self.bad.total

    def batches(self, batch_rows: int = BATCH_ROWS) -> Iterator[list[Row]]:
        """Rows in order, at most `batch_rows` and about `BATCH_CHARS` characters at a time; the last may be empty."""
        make = row_maker(self.mapping, self.sha256)
        batch: list[Row] = []
        chars = 0
        with closing(_open(self.path, self.format)) as opened:
            for line, offset, record in _records(opened, self.format, self.mapping.encoding, self.bad):
                try:
                    row = make(line, record)
                except BadRow as exc:
                    self.bad.add(line, exc.code, exc.message, None if self.format == "parquet" else offset)
                    continue
                batch.append(row)
                chars += sum(map(len, row.texts())) + len(row.meta)
                if len(batch) >= batch_rows or chars >= BATCH_CHARS:
                    self._progress(opened, batch)
                    yield batch
                    batch, chars = [], 0
            self._progress(opened, batch)
            yield batch

    def _progress(self, opened: LineFile | ParquetFile, batch: list[Row]) -> None:
        self.rows_good += len(batch)
        if isinstance(opened, LineFile):
            self.bytes_read = opened.bytes_read
        elif opened.rows_total:
            self.bytes_read = self.bytes_total * self.rows_read // opened.rows_total


def _open(path: Path, kind: Format) -> LineFile | ParquetFile:
    return ParquetFile(path) if kind == "parquet" else LineFile(path)


def _records(
    opened: LineFile | ParquetFile, kind: Format, encoding: str, bad: BadRows
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    if isinstance(opened, ParquetFile):
        return opened.records(bad)
    read = csv_records.records if kind == "csv" else jsonl.records
    return read(opened, encoding, bad)
