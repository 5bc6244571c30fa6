"""Questions to the warehouse of versions, answered at once, and its jobs: export and the collection of garbage."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract, LiveCall, Message

MAX_SQL = 100_000
MAX_TABLES = 200
MAX_RESULT_ROWS = 10_000
MAX_RESULT_BYTES = 4 * 1024 * 1024
MAX_SECONDS = 60
Key = Literal["row", "id"]
Format = Literal["jsonl", "parquet"]
SplitName = Literal["train", "validation", "test"]


class Table(Message):
    """A version as a query sees it: the name of its view, and its files."""

    name: str
    artifact: str


class QueryVersions(LiveCall):
    """One SELECT over some versions: `{"columns": [{"name", "type"}], "rows": [[...]], "truncated", "seconds"}`."""

    name: ClassVar[str] = "data.query"
    queue: ClassVar[str] = "data.live"

    sql: str = Field(min_length=1, max_length=MAX_SQL)
    tables: tuple[Table, ...] = Field(max_length=MAX_TABLES)
    max_rows: int = Field(1000, ge=1, le=MAX_RESULT_ROWS)
    max_seconds: int = Field(10, ge=1, le=MAX_SECONDS)


class DiffVersions(LiveCall):
    """Two versions compared row by row: `{"counts", "samples"}`. Rows are the same by `key`; counts are exact."""

    name: ClassVar[str] = "data.diff"
    queue: ClassVar[str] = "data.live"

    before: str
    after: str
    key: Key
    samples: int = Field(10, ge=0, le=100)


class ExportVersion(JobContract):
    """All rows of a version as one file of the tenant's."""

    kind: ClassVar[str] = "data.export"
    queue: ClassVar[str] = "data"
    id_prefix: ClassVar[str] = "exportjob-"
    stall_limit_s: ClassVar[float | None] = 300.0

    version_id: str
    artifact: str
    filename: str
    format: Format
    split: SplitName | None = None


class CollectGarbage(JobContract):
    """Remove versions that no retention keeps, then every object of the store that nothing names."""

    kind: ClassVar[str] = "data.collect_garbage"
    queue: ClassVar[str] = "data"
    id_prefix: ClassVar[str] = "gcjob-"
    stall_limit_s: ClassVar[float | None] = 600.0

    dry_run: bool
    grace_hours: float = Field(24.0, ge=1.0, le=24 * 365)
