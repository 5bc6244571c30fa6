"""SQL of builds that many workers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

ALIVE = "SELECT id FROM core.job WHERE id = ANY(%s) AND state IN ('queued', 'leased', 'paused')"

FAILED_PARTS = """
SELECT id, state, error FROM core.job WHERE parent_id = %s AND state IN ('failed', 'dead', 'expired')
ORDER BY payload->'stage', payload->'part' LIMIT 1"""

TOMBSTONES = "SELECT row_id FROM data_governance.tombstone WHERE tenant_id = %s"

# Adds to numbers of the progress, and leaves what stands beside them.
COUNT = """
UPDATE core.job SET progress = progress || (
    SELECT jsonb_object_agg(key, COALESCE((job.progress->>key)::bigint, 0) + value::bigint)
    FROM jsonb_each_text(%s) AS added (key, value))
WHERE id = %s"""


def alive(connection: Connection, job_ids: Sequence[str]) -> set[str]:
    """Which of these jobs may still run."""
    return {row["id"] for row in connection.execute(ALIVE, (list(job_ids),)).fetchall()}


def failed_part(connection: Connection, build_id: str) -> Row | None:
    """The first part of a build that has failed, with its error."""
    return connection.execute(FAILED_PARTS, (build_id,)).fetchone()


def count(connection: Connection, build_id: str, counts: Mapping[str, int]) -> None:
    """Add what a part has done to its build's progress."""
    added: dict[str, Any] = dict(counts)
    connection.execute(COUNT, (Jsonb(added), build_id))


def tombstones(connection: Connection, tenant: UUID) -> list[str]:
    """Ids of the tenant's rows that were erased: no version may have them from now on."""
    return [row["row_id"] for row in connection.execute(TOMBSTONES, (tenant,)).fetchall()]
