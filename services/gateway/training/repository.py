"""SQL of what estimates go by: the workers of a queue, and what earlier jobs were measured at."""

from __future__ import annotations

from uuid import UUID

from shared.contracts.batches import Batch
from shared.db import Connection, Row

WORKERS = """
SELECT name, info FROM core.worker
WHERE %s = ANY(queues) AND state = 'running' AND heartbeat_at > now() - interval '30 seconds' ORDER BY name"""

MEASURED = """
SELECT id, kind, payload, result FROM core.job
WHERE tenant_id = %(tenant)s AND queue = %(queue)s AND state = 'succeeded' AND result ? 'measured'
ORDER BY (kind = %(kind)s) DESC, created_at DESC LIMIT %(limit)s"""

BATCHES = """
SELECT id, result, extract(epoch FROM finished_at - created_at)::float8 AS seconds FROM core.job
WHERE tenant_id = %s AND kind = %s AND state = 'succeeded' AND finished_at IS NOT NULL
ORDER BY created_at DESC LIMIT %s"""


def workers(connection: Connection, queue: str) -> list[Row]:
    """Living workers of a queue: `name` and `info`."""
    return connection.execute(WORKERS, (queue,)).fetchall()


def measured(connection: Connection, tenant: UUID, kind: str, queue: str, limit: int = 50) -> list[Row]:
    """Jobs of a queue that were measured, those of the `kind` first, the newest before others: `id`, `kind`, `payload`
    and `result`."""
    asked = {"tenant": tenant, "kind": kind, "queue": queue, "limit": limit}
    return connection.execute(MEASURED, asked).fetchall()


def batches(connection: Connection, tenant: UUID, limit: int = 50) -> list[Row]:
    """The newest batches: `id`, `result`, and the `seconds` until all of their answers were there."""
    return connection.execute(BATCHES, (tenant, Batch.kind, limit)).fetchall()
