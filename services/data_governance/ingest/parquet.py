"""Records of a Parquet file, a few hundred rows at a time. Knows no mapping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.data_governance.ingest.bad_rows import BadRows
from services.data_governance.ingest.lines import MAX_LINE_BYTES
from shared.errors import InvalidInput

# Few, because a dictionary page of one long string can stand for it in every row.
BATCH_ROWS = 256
MAX_DECOMPRESSED_BYTES = 16 * 1024**3


class ParquetFile:
    """Iterate `records` once. `rows_total` comes from the file's footer."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False)
            self.columns: list[str] = list(self._file.schema_arrow.names)
            meta = self._file.metadata
            size = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
        except (pa.ArrowException, OSError) as exc:
            raise _damaged(exc) from exc
        if size > MAX_DECOMPRESSED_BYTES:
            raise InvalidInput(
                f"the Parquet file unpacks to {size} bytes, at most {MAX_DECOMPRESSED_BYTES} are allowed; split it",
                code="decompressed_too_large",
            )
        if len(set(self.columns)) != len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise InvalidInput(f"the Parquet file has two columns `{twice}`; rename one", code="bad_header")
        self.rows_total: int = meta.num_rows

    def close(self) -> None:
        self._file.close()

    def records(self, bad: BadRows) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Row number, the same again for the offset, and the values by column, NaN (pandas' null) as None."""
        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=BATCH_ROWS):
                sizes = _row_sizes(batch)
                for index, record in enumerate(_pylist(batch)):
                    number += 1
                    if record is None:
                        bad.add(number, "invalid_utf8", "a string of the row is not valid UTF-8")
                    elif sizes > MAX_LINE_BYTES and batch.slice(index, 1).nbytes > 2 * MAX_LINE_BYTES:
                        bad.add(number, "line_too_long", f"the row is longer than {MAX_LINE_BYTES} bytes")
                    else:
                        yield number, number, {k: None if v != v else v for k, v in record.items()}  # noqa: PLR0124
        except (pa.ArrowException, OSError) as exc:
            raise _damaged(exc) from exc


def _row_sizes(batch: pa.RecordBatch) -> int:
    return int(batch.nbytes)


def _pylist(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_one(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _one(row: pa.RecordBatch) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = row.to_pylist()[0]
    except UnicodeDecodeError:
        return None
    return record


def _damaged(exc: Exception) -> InvalidInput:
    first = (str(exc).splitlines() or [""])[0]
    return InvalidInput(f"the Parquet file is damaged: {first[:200]}; write it again", code="damaged_file")
