"""The tables that a sync works with, in a DuckDB file of its own, so that memory is bounded whatever the source's size.

Columns are called c0, c1, ... in there: DuckDB takes `Name` and `name` for one column, and sources do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from services.data_governance.sync.values import ARROW, DUCK
from shared.contracts.sources import ColumnType

MEMORY = "512MB"
BATCH_ROWS = 8192
ORIGIN = "_origin"
ORIGIN_TYPE = pa.struct(
    [
        pa.field("source", pa.string()),
        pa.field("key", pa.string()),
        pa.field("item", pa.string()),
        pa.field("synced_at", pa.timestamp("us", "UTC")),
    ]
)
BAD_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("item", pa.string()),
        pa.field("code", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("row", pa.string()),
        pa.field("since", pa.timestamp("us", "UTC"), nullable=False),
    ]
)
TABLES = """
CREATE TABLE old (key VARCHAR, item VARCHAR, synced TIMESTAMP);
CREATE TABLE new (key VARCHAR, item VARCHAR, n BIGINT);
CREATE TABLE bad (key VARCHAR, item VARCHAR, n BIGINT, code VARCHAR, reason VARCHAR, row VARCHAR);
CREATE TABLE old_bad (key VARCHAR, item VARCHAR, code VARCHAR, reason VARCHAR, row VARCHAR, since TIMESTAMP);
CREATE TABLE seen (key VARCHAR);
CREATE TABLE reread (item VARCHAR);
"""


class Bench:
    """`old` is the state before, `new` and `bad` what was read, `seen` every key of the source, `reread` the items
    that were read anew or are gone. `columns` grow by `add_column`."""

    def __init__(self, folder: Path) -> None:
        self.columns: dict[str, ColumnType] = {}
        config: dict[str, Any] = {
            "memory_limit": MEMORY,
            "threads": 2,
            "temp_directory": str(folder / "spill"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self._duck = duckdb.connect(str(folder / "sync.duckdb"), config=config)
        self._duck.execute(TABLES)

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._duck.close()

    def place(self, column: str) -> str:
        """What a column of the source is called in here."""
        return f"c{list(self.columns).index(column)}"

    def places(self) -> list[str]:
        return [f"c{index}" for index in range(len(self.columns))]

    def add_column(self, name: str, kind: ColumnType) -> None:
        for table in ("old", "new"):
            self._duck.execute(f"ALTER TABLE {table} ADD COLUMN c{len(self.columns)} {DUCK[kind]}")
        self.columns[name] = kind

    def insert(self, table: str, rows: pa.Table | pa.RecordBatch) -> None:
        """Put rows in, by the names of their columns."""
        self._duck.register("incoming", rows)
        self._duck.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
        self._duck.unregister("incoming")

    def run(self, query: str, parameters: Sequence[Any] = ()) -> None:
        self._duck.execute(query, list(parameters))

    def count(self, query: str) -> int:
        """The one number that a query gives."""
        return int(self._duck.execute(query).fetchall()[0][0] or 0)

    def pairs(self, query: str) -> dict[str, int]:
        """Numbers by name."""
        return {str(name): int(number) for name, number in self._duck.execute(query).fetchall()}

    def batches(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[pa.RecordBatch]:
        """What a query gives, a few thousand rows at a time."""
        reader: pa.RecordBatchReader = self._duck.sql(query, params=list(parameters)).to_arrow_reader(
            BATCH_ROWS
        )
        yield from reader

    def load_old(self, path: Path) -> None:
        """The state before, from its file; columns that it has and this bench does not are left out.

        A value that does not fit the type that its column has now is dropped: the sync reads it again.
        """
        with pq.ParquetFile(path, pre_buffer=False) as file:
            held = [name for name in file.schema_arrow.names if name in self.columns]
            for batch in file.iter_batches(BATCH_ROWS, columns=[*held, ORIGIN]):
                self._duck.register("incoming", _unpacked(batch, {name: self.place(name) for name in held}))
                casts = [f"TRY_CAST({p} AS {DUCK[self.columns[n]]}) AS {p}" for n, p in _placed(self, held)]
                chosen = ", ".join(["key", "item", "synced", *casts])
                self._duck.execute(f"INSERT INTO old BY NAME SELECT {chosen} FROM incoming")
                self._duck.unregister("incoming")

    def load_old_bad(self, path: Path) -> None:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                since = batch.column("since").cast(pa.timestamp("us"))
                self.insert("old_bad", batch.set_column(BAD_SCHEMA.get_field_index("since"), "since", since))


def _placed(bench: Bench, names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, bench.place(name)) for name in names]


def _unpacked(batch: pa.RecordBatch, places: dict[str, str]) -> pa.RecordBatch:
    origin = batch.column(ORIGIN)
    columns = {
        "key": origin.field("key"),
        "item": origin.field("item"),
        "synced": origin.field("synced_at").cast(pa.timestamp("us")),
        **{place: _naive(batch.column(name)) for name, place in places.items()},
    }
    return pa.RecordBatch.from_pydict(columns)


def _naive(column: pa.Array) -> pa.Array:
    return column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column


def stored(kind: ColumnType) -> pa.DataType:
    """The type of a column in the file: times say there that they are UTC."""
    return pa.timestamp("us", "UTC") if kind == "timestamp" else ARROW[kind]
