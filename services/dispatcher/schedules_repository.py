"""SQL of schedules: which sources are due, and the fence that fires each moment of one once."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from shared.db import Connection, Row

# As the platform: it sees whose turn it is, and nothing more of a source.
DUE = """
SELECT id, tenant_id FROM data_governance.source WHERE next_at <= now() AND deleted_at IS NULL
ORDER BY next_at LIMIT %s"""

# As the tenant. Whoever else is at it has the row, and moves it on.
TAKE = """
SELECT id, name, cron, timezone, next_at, build, now() AS now FROM data_governance.source
WHERE id = %s AND next_at <= now() AND deleted_at IS NULL FOR UPDATE SKIP LOCKED"""

MOVE = "UPDATE data_governance.source SET next_at = %s WHERE id = %s"

UNDER_WAY = """
SELECT id FROM core.job WHERE kind = 'data.sync' AND payload ->> 'source_id' = %s
  AND state IN ('queued', 'leased', 'paused') LIMIT 1"""


def due(connection: Connection, limit: int) -> list[tuple[str, UUID]]:
    """(source, tenant) of those whose moment has come, the longest due first."""
    return [(row["id"], row["tenant_id"]) for row in connection.execute(DUE, (limit,)).fetchall()]


def take(connection: Connection, source_id: str) -> Row | None:
    """The source, locked, if it is still due."""
    return connection.execute(TAKE, (source_id,)).fetchone()


def move(connection: Connection, source_id: str, next_at: datetime) -> None:
    connection.execute(MOVE, (next_at, source_id))


def is_under_way(connection: Connection, source_id: str) -> bool:
    return connection.execute(UNDER_WAY, (source_id,)).fetchone() is not None
