"""Records of a Parquet file, a few hundred rows at a time. Knows no mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.data_governance.ingest.bad_rows import BadRow, BadRows
from services.data_governance.ingest.lines import MAX_LINE_BYTES, MAX_RATIO, RATIO_FREE_BYTES, Span
from shared.errors import InvalidInput

MAX_BATCH_ROWS = 256
BATCH_BYTES = 128 * 1024 * 1024
# A dictionary page of one long string can stand for it in every row; writers keep such pages below this.
DICTIONARY_BYTES = 4 * 1024 * 1024
HANDY_BYTES = 4 * MAX_LINE_BYTES
MAX_COLUMNS = 2048
# A list of equal numbers takes no space in the file and all of it in memory, and a row is read whole.
MAX_NESTED_VALUES = 64 * 1024 * 1024
MAX_DECOMPRESSED_BYTES = 16 * 1024**3


class ParquetFile:
    """Iterate `records` once. `rows_total` comes from the file's footer; `on_read` is called for each batch."""

    def __init__(self, path: Path, *, on_read: Callable[[], None] | None = None, span: Span = Span()) -> None:
        self._on_read = on_read
        self._span = span
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False)
            self.columns: list[str] = list(self._file.schema_arrow.names)
            meta = self._file.metadata
            groups = [meta.row_group(index) for index in range(meta.num_row_groups)]
            size = sum(group.total_byte_size for group in groups)
            self._batch_rows = _batch_rows(groups)
            nested = max(map(_nested_values, groups), default=0)
        except (pa.ArrowException, OSError) as exc:
            raise _damaged(exc) from exc
        limit = min(MAX_DECOMPRESSED_BYTES, max(RATIO_FREE_BYTES, path.stat().st_size * MAX_RATIO))
        if size > limit:
            raise _too_large(f"{size} bytes", limit)
        if nested > MAX_NESTED_VALUES:
            raise _too_large(f"a row group with {nested} values in one column", MAX_NESTED_VALUES)
        if len(self.columns) > MAX_COLUMNS:
            raise InvalidInput(
                f"the Parquet file has {len(self.columns)} columns, at most {MAX_COLUMNS} are allowed",
                code="bad_header",
            )
        if len(set(self.columns)) != len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise InvalidInput(f"the Parquet file has two columns `{twice}`; rename one", code="bad_header")
        self.rows_total: int = meta.num_rows

    def close(self) -> None:
        self._file.close()

    def records(self, bad: BadRows) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Row number, the same again for the offset, and the values by column, NaN (pandas' null) as None."""
        unpacked = 0
        number = self._span.first - 1
        end = self._file.metadata.num_row_groups if self._span.end is None else self._span.end
        wanted = range(self._span.start, end)
        try:
            for raw in self._file.iter_batches(batch_size=self._batch_rows, row_groups=list(wanted)):
                if self._on_read is not None:
                    self._on_read()
                batch = _plain(raw)
                # The footer's sizes are of encoded pages: one long string in a dictionary can be millions of rows.
                unpacked += int(batch.nbytes)
                if unpacked > MAX_DECOMPRESSED_BYTES:
                    raise _too_large("more", MAX_DECOMPRESSED_BYTES)
                for part in _handy(batch):
                    for record in _pylist(part):
                        number += 1
                        if isinstance(record, BadRow):
                            bad.add(number, record.code, record.message)
                        else:
                            yield number, number, {k: None if v != v else v for k, v in record.items()}  # noqa: PLR0124
        except (pa.ArrowException, OSError) as exc:
            raise _damaged(exc) from exc


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without dictionaries, whose size in bytes says nothing of the values that they stand for."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _handy(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in parts that are small or one row: as Python objects they take several times as much."""
    if batch.nbytes <= HANDY_BYTES or batch.num_rows == 1:
        yield batch
    else:
        half = batch.num_rows // 2
        yield from _handy(batch.slice(0, half))
        yield from _handy(batch.slice(half))


def _pylist(batch: pa.RecordBatch) -> list[dict[str, Any] | BadRow]:
    if batch.num_rows == 1 and batch.nbytes > 2 * MAX_LINE_BYTES:
        return [BadRow("line_too_long", f"the row is longer than {MAX_LINE_BYTES} bytes")]
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):
        return [_one(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _one(row: pa.RecordBatch) -> dict[str, Any] | BadRow:
    """The values of a row; Arrow holds dates, times and field names that Python cannot."""
    record: dict[str, Any] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            record[name] = column[0].as_py()
        except UnicodeDecodeError:
            return BadRow("invalid_utf8", f"column `{name[:80]}`: a string is not valid UTF-8")
        except (ValueError, OverflowError):
            return BadRow(
                "unreadable_value",
                f"column `{name[:80]}`: a value of type {str(column.type)[:80]} that is out of range or has no "
                "form in JSON",
            )
    return record


def _batch_rows(groups: Sequence[pq.RowGroupMetaData]) -> int:
    """How many rows at a time stay within BATCH_BYTES, were each as long as the dictionaries allow."""
    longest = max((sum(map(_dictionary_bytes, _columns(group))) for group in groups), default=0)
    return max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // max(longest, 1)))


def _dictionary_bytes(column: pq.ColumnChunkMetaData) -> int:
    if column.physical_type != "BYTE_ARRAY" or not any("DICTIONARY" in name for name in column.encodings):
        return 0
    return min(int(column.total_uncompressed_size), DICTIONARY_BYTES)


def _nested_values(group: pq.RowGroupMetaData) -> int:
    """The most values that a column of lists has; other columns have one a row."""
    return max((c.num_values for c in _columns(group) if c.num_values > group.num_rows), default=0)


def _columns(group: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
    return [group.column(index) for index in range(group.num_columns)]


def _too_large(size: str, limit: int) -> InvalidInput:
    return InvalidInput(
        f"the Parquet file unpacks to {size}, at most {limit} are allowed; split it, or write smaller row groups",
        code="decompressed_too_large",
    )


def _damaged(exc: Exception) -> InvalidInput:
    first = (str(exc).splitlines() or [""])[0]
    return InvalidInput(f"the Parquet file is damaged: {first[:200]}; write it again", code="damaged_file")
