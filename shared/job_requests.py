"""What a person may ask of a job: cancel, pause, resume, replay. Takes a connection; never commits."""

from __future__ import annotations

from shared import job_store
from shared.db import Connection
from shared.errors import Conflict
from shared.jobs import TERMINAL, Job, Status, check_transition

PARTS = """
SELECT id FROM core.job
WHERE parent_id = %s AND state IN ('queued', 'leased', 'paused') AND cancel_requested_at IS NULL ORDER BY id"""

PAUSABLE = """
SELECT id FROM core.job
WHERE parent_id = %s AND state IN ('queued', 'leased') AND pause_requested_at IS NULL ORDER BY id"""

PAUSED = """
SELECT id FROM core.job
WHERE parent_id = %s AND (state = 'paused' OR (state = 'leased' AND pause_requested_at IS NOT NULL)) ORDER BY id"""

OVERDUE = """
SELECT id FROM core.job WHERE state IN ('queued', 'leased') AND expires_at < now() AND progress ? 'finalize_on_cancel'
AND cancel_requested_at IS NULL ORDER BY expires_at LIMIT %s"""


def expire_overdue(connection: Connection, limit: int = 100) -> None:
    """Ask jobs past their `expires_at` that put together what their parts have done to do so: they end as expired."""
    for row in connection.execute(OVERDUE, (limit,)).fetchall():
        job = request_cancel(connection, row["id"], expired=True)
        job_store.set_progress(connection, job, {"expired": True})


def request_cancel(connection: Connection, job_id: str, *, expired: bool = False) -> Job:
    """Cancel a waiting job at once, or ask a running one to stop. Raises Conflict for one that has ended.

    `expired` tells it in the job's events: nobody asked for it.
    """
    job = _lock_below(connection, job_id)
    if job.state is Status.CANCELLED:
        return job
    check_transition(job.state, Status.CANCELLED)
    return _cancel_one(connection, job_id, "its time is over" if expired else "asked to stop")


def _lock_below(connection: Connection, job_id: str) -> Job:
    """The job, locked, with all that it and its parts have handed out asked to stop.

    Parts first, as their ends do it, so that the two never wait for each other; and once more those that the job
    handed out before its row was ours. From here on it hands out none.
    """
    _cancel_parts(connection, job_id)
    job = job_store.get(connection, job_id, lock=True)
    _cancel_parts(connection, job_id)
    return job


def _cancel_parts(connection: Connection, job_id: str) -> None:
    for row in connection.execute(PARTS, (job_id,)).fetchall():
        _lock_below(connection, row["id"])
        _cancel_one(connection, row["id"])


def _cancel_one(connection: Connection, job_id: str, why: str = "asked to stop") -> Job:
    job = job_store.get(connection, job_id, lock=True)
    if job.state in TERMINAL:
        return job
    if job.state is Status.LEASED or job.progress.get("finalize_on_cancel"):
        row = connection.execute(
            "UPDATE core.job SET cancel_requested_at = COALESCE(cancel_requested_at, now()) WHERE id = %s RETURNING *",
            (job_id,),
        ).fetchone()
        assert row is not None
        if job.cancel_requested_at is None:
            job_store.add_event(connection, job, "cancel_requested", why)
        # It puts together what there is, for which a worker must take it.
        return _queue_again(connection, job) if job.state is Status.PAUSED else Job.from_row(row)
    connection.execute("UPDATE core.job SET cancel_requested_at = now() WHERE id = %s", (job_id,))
    ended = job_store.end_unclaimed(connection, job_id, Status.CANCELLED, None)
    assert ended is not None, "a locked waiting job could not be cancelled"
    return ended


def request_pause(connection: Connection, job_id: str) -> Job:
    """Pause a waiting job at once, or ask a running one to stop at its next checkpoint. Raises Conflict.

    One whose progress has `pause_parts` takes its parts with it.
    """
    takes_parts = bool(job_store.get(connection, job_id).progress.get("pause_parts"))
    if takes_parts:
        # Parts first, as their ends do it; then those that were handed out before the row was ours.
        _pause_parts(connection, job_id)
    job = job_store.get(connection, job_id, lock=True)
    if takes_parts:
        _pause_parts(connection, job_id)
    if job.state is Status.PAUSED:
        return job
    check_transition(job.state, Status.PAUSED)
    return _pause_one(connection, job)


def _pause_parts(connection: Connection, job_id: str) -> None:
    for row in connection.execute(PAUSABLE, (job_id,)).fetchall():
        part = job_store.get(connection, row["id"], lock=True)
        if part.state in (Status.QUEUED, Status.LEASED):
            _pause_one(connection, part)


def _pause_one(connection: Connection, job: Job) -> Job:
    row = connection.execute(
        "UPDATE core.job SET pause_requested_at = COALESCE(pause_requested_at, now()) WHERE id = %s RETURNING *",
        (job.id,),
    ).fetchone()
    assert row is not None
    job = Job.from_row(row)
    job_store.add_event(connection, job, "pause_requested", "asked to pause")
    return job if job.state is Status.LEASED else job_store.pause_if_asked(connection, job)


def resume(connection: Connection, job_id: str) -> Job:
    """Queue a paused job again, or take back a pause that has not happened yet. Raises Conflict."""
    if job_store.get(connection, job_id).progress.get("pause_parts"):
        for part in connection.execute(PAUSED, (job_id,)).fetchall():
            one = job_store.get(connection, part["id"], lock=True)
            if _can_resume(one):
                _resume_one(connection, one)
    job = job_store.get(connection, job_id, lock=True)
    if not _can_resume(job):
        raise Conflict(f"job {job_id} is {job.state.value}, not paused; only a paused job can be resumed")
    return _resume_one(connection, job)


def _can_resume(job: Job) -> bool:
    return job.state is Status.PAUSED or (job.state is Status.LEASED and job.pause_requested_at is not None)


def _resume_one(connection: Connection, job: Job) -> Job:
    if job.state is Status.PAUSED:
        job = _queue_again(connection, job)
    else:
        row = connection.execute(
            "UPDATE core.job SET pause_requested_at = NULL WHERE id = %s RETURNING *", (job.id,)
        ).fetchone()
        assert row is not None
        job = Job.from_row(row)
    job_store.add_event(connection, job, "job_resumed", "resumed")
    return job


def _queue_again(connection: Connection, paused: Job) -> Job:
    job_store.wake_lane(connection, paused.queue, paused.tenant_id)
    row = connection.execute(
        "UPDATE core.job SET state = 'queued', run_at = now(), pause_requested_at = NULL WHERE id = %s RETURNING *",
        (paused.id,),
    ).fetchone()
    assert row is not None
    return Job.from_row(row)


def replay(connection: Connection, job_id: str) -> Job:
    """Queue a dead job again with its attempts and crashes forgotten. Raises Conflict."""
    job = job_store.get(connection, job_id, lock=True)
    if job.state is not Status.DEAD:
        raise Conflict(f"job {job_id} is {job.state.value}; only a dead job can be replayed")
    job_store.wake_lane(connection, job.queue, job.tenant_id)
    row = connection.execute(
        "UPDATE core.job SET state = 'queued', attempt = 0, crashes = 0, error = NULL, finished_at = NULL, "
        "run_at = now(), cancel_requested_at = NULL WHERE id = %s RETURNING *",
        (job_id,),
    ).fetchone()
    assert row is not None
    job_store.add_event(connection, job, "job_replayed", "queued again by request")
    return Job.from_row(row)
