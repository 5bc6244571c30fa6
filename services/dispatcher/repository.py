"""The dispatcher's own questions to Postgres; what it does to jobs is in shared.job_store."""

from __future__ import annotations

from datetime import timedelta

from shared.db import Connection

# A worker of an earlier release does not tell how its slots are shared out: any queue may have them all.
SLOTS = """
SELECT queue, sum(COALESCE((info #>> ARRAY['slots', queue])::int, slots))::int AS slots
FROM core.worker, unnest(queues) AS queue
WHERE state = 'running' AND heartbeat_at > now() - interval '30 seconds' GROUP BY queue"""

FORGET_CHATS = """
DELETE FROM gateway.stored_chat WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM gateway.stored_chat WHERE created_at < now() - %s ORDER BY created_at LIMIT %s)"""

FORGET_WORKERS = "DELETE FROM core.worker WHERE heartbeat_at < now() - %s"


def slots_by_queue(connection: Connection) -> dict[str, int]:
    """Slots that workers which were heard of lately have for each queue."""
    return {row["queue"]: row["slots"] for row in connection.execute(SLOTS).fetchall()}


def forget_workers(connection: Connection, silent_for: timedelta) -> int:
    """Drop the rows of workers that are long gone; returns how many."""
    return connection.execute(FORGET_WORKERS, (silent_for,)).rowcount


def forget_chats(connection: Connection, older_than: timedelta, limit: int) -> int:
    """Drop the oldest stored chats that are older than that, deleted ones too; returns how many."""
    return connection.execute(FORGET_CHATS, (older_than, limit)).rowcount
