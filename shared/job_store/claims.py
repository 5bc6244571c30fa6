"""How a worker takes the next job of a queue, and where there is one to take.

The claim is a PL/pgSQL function: each of its statements sees a fresh snapshot after the lane's lock, so racing claimers
neither exceed a cap nor come away empty while work waits.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from shared.db import Connection
from shared.jobs import Job

CLAIM = """
WITH job AS (SELECT * FROM core.claim(%s, %s, %s)), event AS (
    INSERT INTO core.job_event (tenant_id, job_id, type, message, data)
    SELECT tenant_id, id, 'job_started', 'attempt ' || attempt || ' started', jsonb_build_object('wait_s',
        round(GREATEST(0, extract(epoch FROM clock_timestamp() - run_at)), 3)) FROM job
)
SELECT * FROM job"""

READY = """
SELECT l.queue, sum(ready.n)::int AS jobs FROM core.lane l CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM (SELECT 1 FROM core.job j WHERE j.queue = l.queue AND j.tenant_id = l.tenant_id
        AND j.state = 'queued' AND j.blocked_by = 0 AND j.run_at <= now() LIMIT l.cap - l.running) few) ready
WHERE l.running < l.cap AND ready.n > 0 GROUP BY l.queue"""


def claim(connection: Connection, queue: str, worker_id: str, lease: timedelta) -> Job | None:
    """Take the next eligible job of the queue, with its event, or None."""
    return claim_unread(connection, queue, worker_id, lease)()


def claim_unread(
    connection: Connection, queue: str, worker_id: str, lease: timedelta
) -> Callable[[], Job | None]:
    """The same, read by the returned function once a pipelined transaction is over.

    So claiming is a single round trip, and the lane is locked for no longer than Postgres itself takes.
    """
    cursor = connection.execute(CLAIM, (queue, worker_id, lease))

    def read() -> Job | None:
        row = cursor.fetchone()
        return Job.from_row(row) if row is not None else None

    return read


def ready_queues(connection: Connection) -> dict[str, int]:
    """Queues with claimable jobs -> how many, counted no further than the lanes' free places."""
    return {row["queue"]: row["jobs"] for row in connection.execute(READY).fetchall()}
