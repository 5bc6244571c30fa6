"""SQL of what estimates go by: the workers of a queue, and what earlier jobs were measured at."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection, Row

WORKERS = """
SELECT name, info FROM core.worker
WHERE %s = ANY(queues) AND state = 'running' AND heartbeat_at > now() - interval '30 seconds' ORDER BY name"""

MEASURED = """
SELECT id, payload, result FROM core.job
WHERE tenant_id = %s AND kind = %s AND queue = %s AND state = 'succeeded' AND result ? 'measured'
ORDER BY created_at DESC LIMIT %s"""


def workers(connection: Connection, queue: str) -> list[Row]:
    """Living workers of a queue: `name` and `info`."""
    return connection.execute(WORKERS, (queue,)).fetchall()


def measured(connection: Connection, tenant: UUID, kind: str, queue: str, limit: int = 50) -> list[Row]:
    """The newest jobs of a kind that were measured: `id`, `payload` and `result`."""
    return connection.execute(MEASURED, (tenant, kind, queue, limit)).fetchall()
