"""SQL of preemption: which jobs could give way, which wait for what, and who would take a free place next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.contracts.training import LIGHT_QUEUE
from shared.db import Connection
from shared.jobs import Job

# One dispatcher at a time looks at a queue: two that saw the same would ask two jobs for one place.
TURN = "SELECT pg_try_advisory_xact_lock(hashtextextended('heliu.preempt ' || %s, 0)) AS mine"

# By what runs and by what is held, which are few: most preemptible jobs have ended long ago.
QUEUES = """
SELECT queue FROM (
    SELECT j.queue FROM core.job j JOIN core.preemptible p ON p.job_id = j.id WHERE j.state = 'leased'
    UNION
    SELECT j.queue FROM core.preemptible p JOIN core.job j ON j.id = p.job_id
    WHERE p.held_since IS NOT NULL AND j.state IN ('queued', 'paused')
) found WHERE queue <> %s"""

LIVE_QUEUES = """
SELECT DISTINCT queue FROM core.worker, unnest(queues) AS queue
WHERE state = 'running' AND heartbeat_at > now() - interval '30 seconds'
AND starts_with(queue, %s) AND queue LIKE '%%.live'"""

# Its lease is asked already, or it has just begun to wait: what that frees is still on its way.
UNDER_WAY = """
SELECT 1 AS one FROM core.preemptible p JOIN core.job j ON j.id = p.job_id
WHERE j.queue = %s AND p.cause = %s
AND ((j.state = 'leased' AND p.asked_epoch = j.epoch)
    OR (p.held_since IS NOT NULL AND COALESCE(p.held_since > now() - %s * interval '1 second', true))) LIMIT 1"""

# The least wanted first, and of those the one that has run for the shortest time.
VICTIM = """
SELECT j.* FROM core.job j JOIN core.preemptible p ON p.job_id = j.id
WHERE j.queue = %(queue)s AND j.state = 'leased' AND j.cancel_requested_at IS NULL AND j.pause_requested_at IS NULL
AND p.asked_epoch IS DISTINCT FROM j.epoch AND (%(tenant)s::uuid IS NULL OR j.tenant_id = %(tenant)s)
AND (%(below)s::int IS NULL OR j.priority < %(below)s)
ORDER BY j.priority, j.started_at DESC, j.id LIMIT 1 FOR UPDATE OF j SKIP LOCKED"""

# Of the tenant that the claim would serve next, and of tenants whose own jobs fill their cap: the job that would start.
URGENT = """
WITH ready AS (
    SELECT l.tenant_id, l.running >= l.cap AS at_cap, l.vtime FROM core.lane l WHERE l.queue = %(queue)s AND EXISTS (
        SELECT 1 FROM core.job j WHERE j.queue = l.queue AND j.tenant_id = l.tenant_id AND j.state = 'queued'
        AND j.blocked_by = 0 AND j.run_at <= now())
), turn AS (
    (SELECT tenant_id FROM ready WHERE NOT at_cap ORDER BY vtime, tenant_id LIMIT 1)
    UNION SELECT tenant_id FROM ready WHERE at_cap
)
SELECT first.* FROM turn CROSS JOIN LATERAL (
    SELECT * FROM core.job j WHERE j.queue = %(queue)s AND j.tenant_id = turn.tenant_id AND j.state = 'queued'
    AND j.blocked_by = 0 AND j.run_at <= now() ORDER BY j.priority DESC, j.run_at, j.id LIMIT 1) first"""

HELD = """
SELECT p.cause AS "cause", j.* FROM core.preemptible p JOIN core.job j ON j.id = p.job_id
WHERE j.queue = %s AND p.held_since IS NOT NULL ORDER BY j.id LIMIT 500 FOR UPDATE OF p, j SKIP LOCKED"""

WAITING = "SELECT id FROM core.job WHERE id = ANY(%s) AND state = 'queued'"


def take_turn(connection: Connection, queue: str) -> bool:
    """Whether this dispatcher may decide for the queue until its transaction ends."""
    row = connection.execute(TURN, (queue,)).fetchone()
    return row is not None and bool(row["mine"])


def queues(connection: Connection) -> list[str]:
    """Queues with preemptible jobs that run or are held; none of those that only plan, and are over in a moment."""
    return [row["queue"] for row in connection.execute(QUEUES, (LIGHT_QUEUE,)).fetchall()]


def live_queues(connection: Connection, prefix: str) -> list[str]:
    """Queues of live requests under `prefix` that a living worker hears."""
    return [row["queue"] for row in connection.execute(LIVE_QUEUES, (prefix,)).fetchall()]


def is_under_way(connection: Connection, queue: str, cause: str, settle_s: float | None) -> bool:
    """Whether a job gives way to this cause now, or did in the last `settle_s` seconds; None: and is held still."""
    return connection.execute(UNDER_WAY, (queue, cause, settle_s)).fetchone() is not None


def victim(connection: Connection, queue: str, *, tenant: Any = None, below: int | None = None) -> Job | None:
    """The running job that is to give way first, locked."""
    values = {"queue": queue, "tenant": tenant, "below": below}
    row = connection.execute(VICTIM, values).fetchone()
    return Job.from_row(row) if row is not None else None


def next_to_start(connection: Connection, queue: str) -> list[Job]:
    """Jobs that a worker would take now if one were free, and the cap of their tenant were higher."""
    return [Job.from_row(row) for row in connection.execute(URGENT, {"queue": queue}).fetchall()]


def held(connection: Connection, queue: str) -> list[tuple[str, Job]]:
    """(cause, job) of what waits for its cause to be over, locked."""
    rows = connection.execute(HELD, (queue,)).fetchall()
    return [(row.pop("cause"), Job.from_row(row)) for row in rows]


def waiting(connection: Connection, jobs: Sequence[str]) -> set[str]:
    """Those of `jobs` that still wait for a worker."""
    return {row["id"] for row in connection.execute(WAITING, (list(jobs),)).fetchall()}
