"""How a job gives its worker up for something more urgent, and comes back. Takes a connection; never commits.

Who is asked, and when what it gives way to is over, the dispatcher decides.
"""

from __future__ import annotations

from shared import job_store
from shared.db import Connection
from shared.jobs import Job, Status

ASK = """
UPDATE core.preemptible p SET asked_epoch = %s, asked_at = now(), cause = %s, reason = %s
WHERE p.job_id = %s AND p.asked_epoch IS DISTINCT FROM %s RETURNING p.job_id"""

HOLD = """
UPDATE core.preemptible SET asked_epoch = NULL, asked_at = NULL, held_since = now(), times = times + 1
WHERE job_id = %s RETURNING cause, reason, times"""

HOLD_QUEUED = """
WITH free AS (
    SELECT j.id FROM core.job j JOIN core.preemptible p ON p.job_id = j.id
    WHERE j.queue = %(queue)s AND j.state = 'queued' AND j.blocked_by = 0 AND p.held_since IS NULL
    ORDER BY j.id LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED
), held AS (
    UPDATE core.job SET blocked_by = 1, progress = progress || jsonb_build_object('held', %(reason)s::text)
    WHERE id IN (SELECT id FROM free) AND state = 'queued' AND blocked_by = 0 RETURNING *
), marked AS (
    UPDATE core.preemptible SET held_since = now(), cause = %(cause)s, reason = %(reason)s
    WHERE job_id IN (SELECT id FROM held)
)
SELECT * FROM held"""

LET_GO = """
UPDATE core.preemptible SET held_since = NULL, cause = NULL, reason = NULL
WHERE job_id = %s AND held_since IS NOT NULL RETURNING job_id"""

UNHOLD = """
UPDATE core.job SET blocked_by = blocked_by - 1, progress = progress - 'held'
WHERE id = %s AND state IN ('queued', 'paused') AND blocked_by > 0 RETURNING *"""


def ask(connection: Connection, job: Job, cause: str, reason: str) -> bool:
    """Ask a running job to give way; False where this lease has been asked already, or the job may not be."""
    if connection.execute(ASK, (job.epoch, cause, reason, job.id, job.epoch)).fetchone() is None:
        return False
    job_store.add_event(
        connection, job, "preempt_requested", f"asked to give way: {reason}", {"cause": cause}
    )
    return True


def give_way(connection: Connection, job: Job) -> Job:
    """A job that was asked has stopped: it waits, at its place in the line, until what it gave way to is over.

    Neither an attempt nor a crash is charged. Raises LeaseLost.
    """
    job_store.fence(connection, job.id, job.epoch)
    held = connection.execute(HOLD, (job.id,)).fetchone()
    assert held is not None, "a job that was asked to give way is no preemptible one"
    told = {"cause": held["cause"], "reason": held["reason"], "times": held["times"]}
    job_store.set_progress(connection, job, {"held": held["reason"], "preempted": held["times"]})
    job_store.add_event(connection, job, "job_preempted", f"gave way: {held['reason']}", told)
    return job_store.leave(
        connection,
        job,
        Status.QUEUED,
        message="waits for its turn to come again",
        charged=False,
        blocked_by=1,
        delay=None,
    )


def hold_queued(connection: Connection, queue: str, cause: str, reason: str, limit: int = 100) -> list[Job]:
    """Keep preemptible jobs of a queue that wait from starting; returns those that this call holds."""
    values = {"queue": queue, "cause": cause, "reason": reason, "limit": limit}
    held = [Job.from_row(row) for row in connection.execute(HOLD_QUEUED, values).fetchall()]
    for job in held:
        job_store.add_event(connection, job, "job_held", f"held back: {reason}", {"cause": cause})
    return held


def let_go(connection: Connection, job: Job) -> bool:
    """What a held job gave way to is over: it may start again. False where it is held no more."""
    if connection.execute(LET_GO, (job.id,)).fetchone() is None:
        return False
    job_store.wake_lane(connection, job.queue, job.tenant_id)
    row = connection.execute(UNHOLD, (job.id,)).fetchone()
    if row is not None:
        job_store.add_event(connection, job, "job_let_go", "may start again")
    return True
