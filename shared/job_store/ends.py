"""How a job is left, by its worker or without one, and what an end sets off in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from shared.db import Connection, Row
from shared.job_store.deliveries import enqueue_webhooks
from shared.job_store.events import add_event, append
from shared.job_store.leases import LeaseLost
from shared.jobs import TERMINAL, Job, Status, check_transition
from shared.webhooks import event_type

LEAVE = """
UPDATE core.job SET state = %(state)s, lease_until = NULL, worker_id = NULL, result = %(result)s, error = %(error)s,
    finished_at = CASE WHEN %(terminal)s THEN now() END,
    run_at = CASE WHEN %(state)s = 'queued' THEN COALESCE(now() + %(delay)s::interval, run_at) ELSE run_at END,
    attempt = attempt - CASE WHEN %(charged)s THEN 0 ELSE 1 END,
    crashes = crashes + %(crash)s,
    blocked_by = %(blocked_by)s,
    pause_requested_at = CASE WHEN %(state)s IN ('queued', 'leased') THEN pause_requested_at END
WHERE id = %(id)s AND epoch = %(epoch)s AND state = 'leased' RETURNING *"""

LEAVE_LANE = "UPDATE core.lane SET running = running - 1 WHERE queue = %s AND tenant_id = %s"

PAUSE = """
UPDATE core.job SET state = 'paused', pause_requested_at = NULL WHERE id = %s AND state = 'queued' RETURNING *"""

END_QUEUED = """
UPDATE core.job SET state = %s, finished_at = now(), error = %s WHERE id = %s AND state IN ('queued', 'paused')
RETURNING *"""

CHILDREN_OF_ENDED = """
SELECT d.child_id, d.on_failure FROM core.dependency d JOIN core.job j ON j.id = d.child_id
WHERE d.parent_id = %s ORDER BY d.child_id"""

UNBLOCK = """
UPDATE core.job SET blocked_by = blocked_by - 1
WHERE id = %s AND state IN ('queued', 'paused') AND blocked_by > 0 RETURNING *"""


def leave(
    connection: Connection,
    job: Job,
    target: Status,
    *,
    message: str,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    delay: timedelta | None = timedelta(0),
    charged: bool = True,
    crashed: bool = False,
    blocked_by: int = 0,
    data: dict[str, Any] | None = None,
) -> Job:
    """The one exit from `leased`: state, lane, event and dependants in the caller's transaction.

    `charged` False gives the attempt back (drain, pause, waiting for children, crash); `crashed` counts one. Without a
    `delay` a job that is queued again keeps its place in the line.
    Raises LeaseLost when the job is no longer held at `job.epoch`.
    """
    check_transition(Status.LEASED, target)
    row = connection.execute(
        LEAVE,
        {
            "id": job.id,
            "epoch": job.epoch,
            "state": target,
            "terminal": target in TERMINAL,
            "result": Jsonb(result) if result is not None else None,
            "error": Jsonb(error) if error is not None else None,
            "delay": delay,
            "charged": charged,
            "crash": int(crashed),
            "blocked_by": blocked_by,
        },
    ).fetchone()
    if row is None:
        raise LeaseLost(job.id, job.epoch)
    left = Job.from_row(row)
    level = "info" if error is None else ("warn" if target is Status.QUEUED else "error")
    name = "job_requeued" if target is Status.QUEUED else f"job_{target.value}"
    append(connection, left, name, message, {**(data or {}), **(error or {})}, level)
    if target in TERMINAL:
        _after_end(connection, left)
    elif target is Status.QUEUED:
        left = _as_asked(connection, left)
    # Last: every claim and every end of the tenant's jobs in this queue waits for the lane.
    connection.execute(LEAVE_LANE, (left.queue, left.tenant_id))
    return left


def leave_crashed(connection: Connection, job: Job, reason: str, *, delay: timedelta = timedelta(0)) -> Job:
    """A lease that ended without an answer: again, or `dead` after too many, or `cancelled` where asked for."""
    if cancels_at_once(job):
        return leave(
            connection, job, Status.CANCELLED, message="cancelled after its worker was lost", crashed=True
        )
    if job.crashes + 1 >= job.max_crashes:
        error = {
            "code": "crashed",
            "message": f"{reason}; {job.crashes + 1} crashes, {job.max_crashes} allowed",
        }
        return leave(
            connection, job, Status.DEAD, message=error["message"], error=error, crashed=True, charged=False
        )
    error = {"code": "crashed", "message": reason}
    return leave(
        connection, job, Status.QUEUED, message=reason, error=error, crashed=True, charged=False, delay=delay
    )


def _as_asked(connection: Connection, queued: Job) -> Job:
    """A job that was given back does not wait for another worker to hear that it shall be cancelled or paused."""
    if cancels_at_once(queued):
        ended = end_unclaimed(connection, queued.id, Status.CANCELLED, None)
        assert ended is not None, "a job that was just queued could not be cancelled"
        return ended
    return pause_if_asked(connection, queued)


def cancels_at_once(job: Job) -> bool:
    """Whether a cancel request ends the job; one that has parts comes back once more to put together what there is."""
    return job.cancel_requested_at is not None and not job.progress.get("finalize_on_cancel")


def pause_if_asked(connection: Connection, job: Job) -> Job:
    """A queued job with a request to pause becomes paused; any other stays as it is."""
    if job.pause_requested_at is None:
        return job
    row = connection.execute(PAUSE, (job.id,)).fetchone()
    assert row is not None
    add_event(connection, job, "job_paused", "paused")
    return Job.from_row(row)


def end_unclaimed(
    connection: Connection, job_id: str, target: Status, error: dict[str, Any] | None
) -> Job | None:
    """End a job that no worker has, with its event and what an end sets off; None where it is not queued or paused."""
    row = connection.execute(END_QUEUED, (target, Jsonb(error) if error else None, job_id)).fetchone()
    if row is None:
        return None
    ended = Job.from_row(row)
    add_event(connection, ended, f"job_{target.value}", (error or {}).get("message", target.value), error)
    _after_end(connection, ended)
    return ended


def _after_end(connection: Connection, ended: Job) -> None:
    """What an end sets off, in the same transaction: dependants and outgoing webhooks."""
    dependants = connection.execute(CHILDREN_OF_ENDED, (ended.id,))
    if ended.parent_id is None:
        enqueue_webhooks(connection, ended.tenant_id, event_type(ended), {"id": ended.id})
    _release_dependants(connection, ended, dependants.fetchall())


def _release_dependants(connection: Connection, ended: Job, dependants: Sequence[Row]) -> None:
    for child in dependants:
        if ended.state is Status.SUCCEEDED or child["on_failure"] == "continue":
            connection.execute(UNBLOCK, (child["child_id"],))
            continue
        error = {
            "code": "dependency_failed",
            "message": f"job {ended.id} that this waits for ended as {ended.state.value}",
        }
        row = connection.execute(END_QUEUED, (Status.FAILED, Jsonb(error), child["child_id"])).fetchone()
        if row is not None:
            failed = Job.from_row(row)
            add_event(connection, failed, "job_failed", error["message"], error, "error")
            _after_end(connection, failed)
