"""Questions about single rows, answered by a worker of data governance. The graph itself is asked of Postgres."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from shared.contracts.base import LiveCall, Message

MAX_VERSIONS = 500
MAX_ROWS = 500


class VersionAt(Message):
    """A dataset version by id, and the artifact tree of its files."""

    id: str
    artifact: str


class FindRows(LiveCall):
    """Where rows are: `{"found": [{"version", "row_id", "line", "id", "split", "parents"}, ...]}`.

    `line` is the row's line in its source file.
    """

    name: ClassVar[str] = "data.find_rows"
    queue: ClassVar[str] = "data.live"

    versions: tuple[VersionAt, ...] = Field(max_length=MAX_VERSIONS)
    row_ids: tuple[str, ...] = Field(min_length=1, max_length=MAX_ROWS)


class VersionRows(LiveCall):
    """Some rows of a version without their texts, in stored order: `{"rows": [...], "total": n}`."""

    name: ClassVar[str] = "data.version_rows"
    queue: ClassVar[str] = "data.live"

    artifact: str
    offset: int = Field(0, ge=0)
    limit: int = Field(20, ge=1, le=MAX_ROWS)
