"""Reads a CSV, JSONL or Parquet file as batches of rows with their line numbers, and notes what it cannot use.

Memory is bounded by the batch and the longest line, whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from services.data_governance.ingest import csv_records, jsonl
from services.data_governance.ingest.bad_rows import BadRow, BadRowNote, BadRows
from services.data_governance.ingest.lines import LineFile, Span, head
from services.data_governance.ingest.parquet import ParquetFile
from services.data_governance.ingest.records import check_columns, row_maker
from services.data_governance.ingest.sniff import HEAD_BYTES, Format, check_encoding, detect
from services.data_governance.rows import Row
from shared.contracts.recipe import InputMapping
from shared.contracts.recipe_infer import infer_mapping
from shared.errors import InvalidInput

__all__ = ["BadRowNote", "BadRows", "Peek", "Source", "Span", "peek"]

BATCH_ROWS = 2048
BATCH_CHARS = 8 * 1024 * 1024
SAMPLE_ROWS = 200
# A file that opens with that many bad rows is not read to its end only to see its columns.
MOST_BAD_SAMPLES = 10_000
NAMED_BAD_ROWS = 3


@dataclass(frozen=True, slots=True)
class Peek:
    """The format, the columns in order, the first parsed rows of a file, and the first that could not be parsed."""

    format: Format
    columns: tuple[str, ...]
    samples: tuple[Mapping[str, Any], ...]
    bad: tuple[BadRowNote, ...] = ()

    def mapping(self) -> InputMapping:
        """The mapping that these rows suggest. Raises InvalidInput when none does."""
        if not self.samples and self.bad:
            places = "; ".join(f"line {note.line}: {note.message}" for note in self.bad[:NAMED_BAD_ROWS])
            raise InvalidInput(
                f"no row of the file can be read as {self.format.upper()}: {places}", code="no_readable_rows"
            )
        if not self.samples:
            raise InvalidInput("the file names columns and has no rows", code="empty_file")
        return infer_mapping(self.columns, self.samples)


class _SeenEnough(Exception):
    """Too many bad rows at the start to go on looking."""


def peek(path: Path, name: str, encoding: str = "utf-8", on_read: Callable[[], None] | None = None) -> Peek:
    """What the file is and how it starts. `name` is its original name. Raises InvalidInput."""
    start = head(path, HEAD_BYTES)
    kind = detect(start, name)
    if kind != "parquet":
        check_encoding(start, name, encoding)

    def heard(_: BadRowNote) -> None:
        if bad.total >= MOST_BAD_SAMPLES:
            raise _SeenEnough

    bad = BadRows(heard)
    rows: list[Mapping[str, Any]] = []
    with closing(_open(path, kind, on_read)) as opened:
        with suppress(_SeenEnough):
            rows.extend(record for _, _, record in islice(_records(opened, kind, encoding, bad), SAMPLE_ROWS))
        columns = (
            opened.columns
            if isinstance(opened, ParquetFile)
            else tuple(dict.fromkeys(c for r in rows for c in r))
        )
    return Peek(kind, tuple(columns), tuple(rows), tuple(bad.listed))


@dataclass(slots=True)
class Source:
    """One reading of a file, or of the `span` of it. After `batches` is exhausted, `bad` is complete.

    A CSV file's `header` is given where the span is not its first. Rows are marked as of input `number`. `rows_read`
    counts good and bad rows.
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
    on_read: Callable[[], None] | None = None
    number: int = 0
    span: Span = Span()
    header: csv_records.Header | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        name: str,
        mapping: InputMapping,
        sha256: str,
        on_read: Callable[[], None] | None = None,
    ) -> Source:
        """Checks format, encoding and columns. Raises InvalidInput, and what `on_read` raises."""
        seen = peek(path, name, mapping.encoding, on_read)
        # A JSONL row may lack any column; a column is unknown when no row of the sample has it.
        if seen.samples or seen.format == "csv":
            check_columns(mapping, seen.columns)
        size = path.stat().st_size
        return cls(path, name, seen.format, mapping, sha256, bytes_total=size, on_read=on_read)

    @property
    def rows_read(self) -> int:
        return self.rows_good + self.bad.total

    def batches(self, batch_rows: int = BATCH_ROWS) -> Iterator[list[Row]]:
        """Rows in order, at most `batch_rows` and about `BATCH_CHARS` characters at a time; the last may be empty."""
        make = row_maker(self.mapping, self.sha256, self.number)
        batch: list[Row] = []
        chars = 0
        with closing(_open(self.path, self.format, self.on_read, self.span)) as opened:
            encoding = self.mapping.encoding
            for line, offset, record in _records(opened, self.format, encoding, self.bad, self.header):
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
            self.bytes_read = opened.bytes_read - self.span.start
        elif opened.rows_total:
            self.bytes_read = self.bytes_total * self.rows_read // opened.rows_total


def _open(
    path: Path, kind: Format, on_read: Callable[[], None] | None, span: Span = Span()
) -> LineFile | ParquetFile:
    if kind == "parquet":
        return ParquetFile(path, on_read=on_read, span=span)
    return LineFile(path, on_read=on_read, span=span)


def _records(
    opened: LineFile | ParquetFile,
    kind: Format,
    encoding: str,
    bad: BadRows,
    header: csv_records.Header | None = None,
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    if isinstance(opened, ParquetFile):
        return opened.records(bad)
    if kind == "csv":
        return iter(csv_records.Records(opened, encoding, bad, header))
    return jsonl.records(opened, encoding, bad)
