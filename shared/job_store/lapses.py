"""What nobody will end any more: leases that ran out, workers that started again, jobs past their time."""

from __future__ import annotations

from shared.db import Connection
from shared.job_store.ends import end_unclaimed, leave_crashed
from shared.jobs import Job, Status

EXPIRED_LEASES = """
SELECT * FROM core.job WHERE state = 'leased' AND lease_until < clock_timestamp()
ORDER BY lease_until LIMIT %s FOR UPDATE SKIP LOCKED"""

PREVIOUS_LEASES = """
SELECT j.* FROM core.job j JOIN core.worker w ON w.id = j.worker_id
WHERE j.state = 'leased' AND w.name = %s AND w.id <> %s FOR UPDATE OF j SKIP LOCKED"""

OVERDUE = """
SELECT id FROM core.job WHERE state = 'queued' AND expires_at < now() AND NOT progress ? 'finalize_on_cancel'
ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED"""


def reap(connection: Connection, limit: int = 1) -> list[Job]:
    """End expired leases: requeued, dead or cancelled. One at a time keeps the locks of lanes short."""
    rows = connection.execute(EXPIRED_LEASES, (limit,)).fetchall()
    return [
        leave_crashed(connection, Job.from_row(row), f"worker {row['worker_id']} stopped renewing its lease")
        for row in rows
    ]


def release_previous(connection: Connection, worker_name: str, worker_id: str) -> list[Job]:
    """A worker that starts again gives back at once what its earlier incarnation held."""
    rows = connection.execute(PREVIOUS_LEASES, (worker_name, worker_id)).fetchall()
    return [
        leave_crashed(connection, Job.from_row(row), f"worker {worker_name} was restarted") for row in rows
    ]


def expire_overdue(connection: Connection, limit: int = 100) -> list[Job]:
    """End queued jobs past their `expires_at`."""
    error = {"code": "expired", "message": "the job was not started before it expired"}
    return [
        ended
        for row in connection.execute(OVERDUE, (limit,)).fetchall()
        if (ended := end_unclaimed(connection, row["id"], Status.EXPIRED, error)) is not None
    ]
