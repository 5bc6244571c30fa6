"""Runs claimed jobs: the fence of every write, and the one exit of each job. `heartbeat` keeps their claims.

Knows no Celery: whoever hears a doorbell calls `run_queue`. A handler gets a JobContext and its contract, and
returns an Outcome or raises.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta

from shared import job_store, semconv
from shared.contracts.base import JobContract
from shared.contracts.registry import parse_job
from shared.db import Database
from shared.errors import HeliuError, Unavailable
from shared.heartbeat import Heartbeat
from shared.job_context import Handler, JobContext, Waiting
from shared.job_ends import JobEnds
from shared.job_store import LeaseLost
from shared.jobs import Job, Status
from shared.metrics import Metrics
from shared.stop import ChildCrashed, Stop, Stopped
from shared.telemetry import Tracing

log = logging.getLogger(__name__)


class JobRunner:
    """One per worker process. Thread-safe: each thread of the pool calls `run_queue`."""

    def __init__(
        self,
        db: Database,
        handlers: Mapping[type[JobContract], Handler],
        *,
        worker_id: str,
        tracing: Tracing,
        metrics: Metrics,
        lease_s: float,
        heartbeat_s: float,
    ) -> None:
        self.db = db
        self._ends = JobEnds(db)
        self.worker_id = worker_id
        self.tracing = tracing
        self.metrics = metrics
        self.draining = threading.Event()
        self.claimed_at: dict[str, float] = {}
        self._handlers = {contract.kind: handler for contract, handler in handlers.items()}
        self._lease = timedelta(seconds=lease_s)
        self.heartbeat = Heartbeat(db, self._lease, heartbeat_s)

    @property
    def busy(self) -> dict[str, int]:
        """How many jobs of each queue are held now."""
        return dict(Counter(context.job.queue for context in self.heartbeat.held))

    def run_queue(self, queue: str, doorbell: str | None = None) -> int:
        """Claim and run jobs of `queue` until there is none or the worker drains; returns how many ran."""
        ran = 0
        while not self.draining.is_set():
            context = self.claim(queue, doorbell)
            if context is None:
                return ran
            self.run(context)
            ran += 1
        return ran

    def claim(self, queue: str, doorbell: str | None = None) -> JobContext | None:
        """Take one job and start to renew its lease; None when there is nothing to do."""
        while (job := self._take(queue)) is not None:
            context = self._open(job, doorbell)
            if context is not None:
                return context
        return None

    def _take(self, queue: str) -> Job | None:
        with self.db.core(pipelined=True) as connection:
            claimed = job_store.claim_unread(connection, queue, self.worker_id, self._lease)
        job = claimed()
        if job is not None:
            self.claimed_at[queue] = time.monotonic()
        return job

    def _open(self, job: Job, doorbell: str | None) -> JobContext | None:
        """The context of a claimed job, held from here on; None when this code cannot read its payload."""
        span = self.tracing.start(
            f"process {job.queue}",
            kind="consumer",
            parent=job.traceparent,
            links=[doorbell] if doorbell else [],
            attributes={
                semconv.MESSAGING_SYSTEM: "celery",
                semconv.MESSAGING_DESTINATION: job.queue,
                semconv.MESSAGING_OPERATION: "process",
                semconv.MESSAGING_REDELIVERED: job.epoch > 1,
                semconv.JOB_ID: job.id,
                semconv.JOB_KIND: job.kind,
                semconv.TENANT: str(job.tenant_id),
                semconv.ATTEMPT: job.attempt,
                semconv.EPOCH: job.epoch,
                semconv.QUEUE_WAIT: round(_waited(job), 6),
                semconv.WORKER: self.worker_id,
            },
        )
        try:
            contract = parse_job(job.kind, job.payload)
        except HeliuError as exc:
            self._ends.leave(
                job, Status.FAILED, message=exc.message, error={"code": exc.code, "message": exc.message}
            )
            span.fail(exc.message)
            span.end()
            return None
        context = JobContext(job, contract, self.db, self.tracing, span)
        self.heartbeat.hold(context)
        if job_store.cancels_at_once(job):
            context.stop(Stop.CANCEL)
        if self.draining.is_set():
            # The drain began between the claim and here, and has not seen this job.
            context.stop(Stop.DRAIN)
        return context

    def run(self, context: JobContext) -> None:
        """Run the handler of a claimed job and write its end, whatever it is."""
        job = context.job
        started = time.monotonic()
        try:
            with self.metrics.process_seconds.labels(job.queue).time():
                self._end(context, self._attempt(context))
        except LeaseLost as exc:
            context.span.fail(exc.message)
            log.warning("lease_lost", extra={"job": job.id, "epoch": job.epoch})
        except Unavailable as exc:
            # The end could not be written: the lease runs out and the reaper hands the job on.
            context.span.fail(exc.message)
            log.error("end_not_written", extra={"job": job.id, "epoch": job.epoch, "error": exc.message})
        finally:
            self.heartbeat.release(context)
            context.span.end()
            log.info(
                "job_left",
                extra={"job": job.id, "kind": job.kind, "seconds": round(time.monotonic() - started, 3)},
            )

    def _attempt(self, context: JobContext) -> Callable[[], Job]:
        """Run the handler; returns the write that ends the job accordingly."""
        job = context.job
        handler = self._handlers.get(job.kind)
        if handler is None:
            error = {
                "code": "no_handler",
                "message": f"worker {self.worker_id} has no handler for {job.kind}",
            }
            return lambda: self._ends.leave(job, Status.FAILED, message=error["message"], error=error)
        try:
            context.check()
            outcome = handler(context, context.contract)
        except LeaseLost:
            raise
        except Stopped as stopped:
            return self._ends.stopped(job, stopped.reason)
        except ChildCrashed as exc:
            reason = str(exc)
            context.span.fail(reason)
            if context.reason in (Stop.LOST, Stop.TIME_LIMIT, Stop.CANCEL):
                return self._ends.stopped(job, context.reason)
            return self._ends.crashed(job, reason)
        except HeliuError as exc:
            context.span.fail(exc.message)
            return self._ends.failed(job, exc)
        except Exception as exc:
            context.span.fail(type(exc).__name__)
            log.exception("handler_raised", extra={"job": job.id, "kind": job.kind})
            return self._ends.failed(job, _unexpected(exc))
        if isinstance(outcome, Waiting):
            return self._ends.waiting(job, outcome)
        done = outcome
        return lambda: self._ends.leave(
            job,
            done.status,
            message=f"{job.kind} ended",
            result=done.result,
            error=done.error,
            write=done.write,
        )

    def _end(self, context: JobContext, end: Callable[[], Job]) -> None:
        """Write the end; one that Postgres or the handler's own `write` refuses is a failed attempt, not a crash."""
        try:
            self._settle(context, end)
        except (LeaseLost, Unavailable):
            raise
        except HeliuError as exc:
            context.span.fail(exc.message)
            self._settle(context, self._ends.failed(context.job, exc))
        except Exception as exc:
            context.span.fail(type(exc).__name__)
            log.exception("end_refused", extra={"job": context.job.id, "kind": context.job.kind})
            what = "the end of the job could not be stored"
            self._settle(context, self._ends.failed(context.job, _unexpected(exc, what)))

    def _settle(self, context: JobContext, end: Callable[[], Job]) -> None:
        left = end()
        context.span.set_all({semconv.JOB_STATE: left.state.value})
        self.metrics.jobs_ended.labels(left.kind, left.state.value).inc()

    def drain(self) -> None:
        """Stop claiming and ask every running job to give itself back at its next checkpoint."""
        self.draining.set()
        for context in self.heartbeat.held:
            context.stop(Stop.DRAIN)

    def close(self) -> None:
        self.heartbeat.close()


def _waited(job: Job) -> float:
    """Seconds since the job might have started, told at its claim."""
    return max(0.0, time.time() - job.run_at.timestamp())


def _unexpected(exc: Exception, what: str = "the worker failed") -> HeliuError:
    """What a tenant may read of a bug: its text can hold SQL or somebody's data, so that goes to the log alone."""
    if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return HeliuError(f"{what}: the disk is full", code="storage_full", retryable=True)
    return HeliuError(f"{what}: unexpected {type(exc).__name__}; the worker's log tells more", retryable=True)
