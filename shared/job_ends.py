"""How a claimed job ends: which state each end leads to, and the one transaction that writes it."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from shared import job_store, preemption
from shared.db import Connection, Contended, Database, retrying
from shared.errors import HeliuError, Unavailable
from shared.job_context import Waiting
from shared.job_store import LeaseLost
from shared.jobs import Job, Status
from shared.stop import Stop

BACKOFF_BASE_S, BACKOFF_CAP_S = 1.0, 60.0


class JobEnds:
    """Makes the write that ends a job. Each answer is called once, and again only where it is safe."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def crashed(self, job: Job, reason: str) -> Callable[[], Job]:
        """The handler's child died: again after a pause, or dead after too many."""
        return lambda: self.write(
            lambda c: job_store.leave_crashed(
                c, job_store.fence(c, job.id, job.epoch), reason, delay=backoff(job.crashes + 1)
            )
        )

    def waiting(self, job: Job, parts: Waiting) -> Callable[[], Job]:
        """The job waits for its parts."""
        return lambda: self.write(
            lambda c: job_store.wait_for_children(
                c,
                job,
                parts.children,
                parts.progress,
                awaited=parts.awaited,
                any_of=parts.any_of,
                write=parts.write,
            ),
            tenant_of=job if parts.write is not None else None,
        )

    def stopped(self, job: Job, reason: Stop) -> Callable[[], Job]:
        """The end of a job whose handler stopped for `reason`. Raises LeaseLost for a lost lease."""
        if reason is Stop.LOST:
            raise LeaseLost(job.id, job.epoch)
        if reason is Stop.CANCEL:
            return lambda: self.leave(job, Status.CANCELLED, message="cancelled on request")
        if reason is Stop.PAUSE:
            return lambda: self.leave(job, Status.PAUSED, message="paused at a checkpoint", charged=False)
        if reason is Stop.DRAIN:
            return lambda: self.leave(
                job, Status.QUEUED, message="given back by a draining worker", charged=False
            )
        if reason is Stop.PREEMPT:
            return lambda: self.write(lambda c: preemption.give_way(c, job))
        if reason is Stop.TIME_LIMIT:
            error = {
                "code": "time_limit_exceeded",
                "message": f"ran longer than its limit of {job.time_limit_s} s",
            }
            return lambda: self.leave(job, Status.FAILED, message=error["message"], error=error)
        stall = HeliuError("made no progress within its stall limit", code="stalled", retryable=True)
        return self.failed(job, stall)

    def failed(self, job: Job, exc: HeliuError) -> Callable[[], Job]:
        """Its own fault ends a job as failed; a retryable one tries again, or ends as dead after its last attempt."""
        error: dict[str, Any] = {"code": exc.code, "message": exc.message, "param": exc.param}
        if not exc.retryable:
            return lambda: self.leave(job, Status.FAILED, message=exc.message, error=error)
        if job.attempt >= job.max_attempts:
            return lambda: self.leave(
                job,
                Status.DEAD,
                message=f"{exc.message} (attempt {job.attempt} of {job.max_attempts})",
                error=error,
            )
        pause = backoff(job.attempt)
        return lambda: self.leave(job, Status.QUEUED, message=exc.message, error=error, delay=pause)

    def leave(
        self, job: Job, target: Status, *, write: Callable[[Connection], None] | None = None, **options: Any
    ) -> Job:
        """Leave `leased` for `target`; `write` runs first, as the job's tenant, under the same fence."""

        def work(connection: Connection) -> Job:
            if write is not None:
                job_store.fence(connection, job.id, job.epoch)
                write(connection)
            return job_store.leave(connection, job, target, **options)

        if write is not None:
            return self.write(work, tenant_of=job)
        return self.write(work)

    def write(self, work: Callable[[Connection], Job], tenant_of: Job | None = None) -> Job:
        """Run the ending transaction; a lost COMMIT reply is settled by reading the job again."""
        unknown = False

        def once() -> Job:
            nonlocal unknown
            try:
                if tenant_of is not None:
                    with self._db.transaction(tenant_of.tenant_id) as connection:
                        return work(connection)
                with self._db.core(pipelined=True) as connection:
                    return work(connection)
            except LeaseLost as lost:
                if unknown and (before := self._committed_before(lost)) is not None:
                    return before
                raise
            except Contended:
                raise
            except Unavailable:
                unknown = True
                raise

        return retrying(once, attempts=12, patience=0.1)

    def _committed_before(self, lost: LeaseLost) -> Job | None:
        """After an unknown COMMIT: the job as it stands, if this epoch's end is what was written."""
        job_id, epoch = lost.job_id, lost.epoch
        with self._db.core() as connection:
            job = job_store.get(connection, job_id)
        return job if job.epoch == epoch and job.state is not Status.LEASED else None


def backoff(attempt: int) -> timedelta:
    """Full jitter: uniform between 0 and base * 2^attempt, capped (AWS architecture blog, 2015)."""
    return timedelta(seconds=random.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2**attempt)))
