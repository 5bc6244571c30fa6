"""Runs claimed jobs: leases and their heartbeat, the fence of every write, and the one exit of each job.

Knows no Celery: whoever hears a doorbell calls `run_queue`. A handler gets a JobContext and its contract, and
returns an Outcome or raises.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from shared import job_store, semconv
from shared.contracts.base import JobContract
from shared.contracts.registry import parse_job
from shared.db import Connection, Contended, Database, retrying
from shared.errors import HeliuError, Unavailable
from shared.job_store import LeaseLost
from shared.jobs import Job, NewJob, Status
from shared.metrics import Metrics
from shared.stop import ChildCrashed, Stop, Stopped
from shared.telemetry import Span, Tracing

log = logging.getLogger(__name__)

BACKOFF_BASE_S, BACKOFF_CAP_S = 1.0, 60.0


@dataclass(frozen=True)
class Outcome:
    """How a handler ended well: `write` runs inside the transaction that ends the job."""

    result: dict[str, Any] = field(default_factory=dict)
    status: Status = Status.SUCCEEDED
    error: dict[str, Any] | None = None
    write: Callable[[Connection], None] | None = None


@dataclass(frozen=True)
class Waiting:
    """The job has parts: it comes back, with `progress` merged into its own, when all of them have ended."""

    children: Sequence[NewJob]
    progress: dict[str, Any]


class JobContext:
    """What a handler may do with the job that it runs. Every write is fenced by the job's epoch."""

    def __init__(self, job: Job, contract: JobContract, db: Database, tracing: Tracing, span: Span) -> None:
        self.job = job
        self.contract = contract
        self.db = db
        self.tracing = tracing
        self.span = span
        self.asked = threading.Event()
        self.reason: Stop | None = None
        self.renewed_at = self.started_at = self.touched_at = time.monotonic()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction as the job's tenant that only commits while this worker still holds the job."""
        with self.db.transaction(self.job.tenant_id) as connection:
            job_store.fence(connection, self.job.id, self.job.epoch)
            yield connection

    def event(
        self, type_: str, message: str, data: dict[str, Any] | None = None, level: str = "info"
    ) -> None:
        """Append an event, fenced; tried again while Postgres is away, and never written twice."""
        written: int | None = None

        def write() -> None:
            nonlocal written
            with self.transaction() as connection:
                if written is not None and job_store.has_event(connection, self.job, written, type_):
                    return  # the COMMIT got through and only its reply was lost
                written = job_store.add_event(connection, self.job, type_, message, data, level)

        retrying(write, attempts=8, patience=0.2)
        self.touch()

    def progress(self, **values: Any) -> None:
        """Merge values into the job's progress, fenced."""

        def write() -> None:
            with self.transaction() as connection:
                job_store.set_progress(connection, self.job, values)

        retrying(write, attempts=8, patience=0.2)
        self.job.progress.update(values)
        self.touch()

    def touch(self) -> None:
        """Say that the job moves: the watchdog ends jobs that are alive and stuck."""
        self.touched_at = time.monotonic()

    def stop(self, reason: Stop) -> None:
        """Ask the handler to stop; the first reason stands, except that a lost lease overrules."""
        if self.reason is None or reason is Stop.LOST:
            self.reason = reason
        self.asked.set()

    def check(self) -> None:
        """Raise Stopped when the job is asked to stop: call it between steps."""
        if self.asked.is_set():
            assert self.reason is not None
            raise Stopped(self.reason)


Handler = Callable[[JobContext, Any], Outcome | Waiting]


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
        self.worker_id = worker_id
        self.tracing = tracing
        self.metrics = metrics
        self.draining = threading.Event()
        self.last_claim_at = time.monotonic()
        self._handlers = {contract.kind: handler for contract, handler in handlers.items()}
        self._lease = timedelta(seconds=lease_s)
        self._heartbeat_s = heartbeat_s
        self._held: dict[tuple[str, int], JobContext] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    @property
    def busy(self) -> int:
        return len(self._held)

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
        with self.db.core() as connection:
            job = job_store.claim(connection, queue, self.worker_id, self._lease)
            if job is None:
                return None
            data = {"wait_s": round(_waited(job), 3)}
            job_store.add_event(connection, job, "job_started", f"attempt {job.attempt} started", data)
        self.last_claim_at = time.monotonic()
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
            self._leave(
                job, Status.FAILED, message=exc.message, error={"code": exc.code, "message": exc.message}
            )
            span.fail(exc.message)
            span.end()
            return None
        context = JobContext(job, contract, self.db, self.tracing, span)
        with self._lock:
            self._held[job.id, job.epoch] = context
        if job.cancel_requested_at is not None and not job.progress.get("finalize_on_cancel"):
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
            with self._lock:
                self._held.pop((job.id, job.epoch), None)
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
            return lambda: self._leave(job, Status.FAILED, message=error["message"], error=error)
        try:
            context.check()
            outcome = handler(context, context.contract)
        except LeaseLost:
            raise
        except Stopped as stopped:
            return self._stopped(context, stopped.reason)
        except ChildCrashed as exc:
            reason = str(exc)
            context.span.fail(reason)
            if context.reason in (Stop.LOST, Stop.TIME_LIMIT, Stop.CANCEL):
                return self._stopped(context, context.reason)
            return lambda: self._write(
                lambda c: job_store.leave_crashed(
                    c, job_store.fence(c, job.id, job.epoch), reason, delay=backoff(job.crashes + 1)
                )
            )
        except HeliuError as exc:
            context.span.fail(exc.message)
            return self._failed(job, exc)
        except Exception as exc:
            context.span.fail(f"{type(exc).__name__}: {exc}")
            log.exception("handler_raised", extra={"job": job.id, "kind": job.kind})
            return self._failed(job, HeliuError(f"{type(exc).__name__}: {exc}", retryable=True))
        if isinstance(outcome, Waiting):
            waiting = outcome
            return lambda: self._write(
                lambda c: job_store.wait_for_children(c, job, waiting.children, waiting.progress)
            )
        done = outcome
        return lambda: self._leave(
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
            self._settle(context, self._failed(context.job, exc))
        except Exception as exc:
            context.span.fail(f"{type(exc).__name__}: {exc}")
            log.exception("end_refused", extra={"job": context.job.id, "kind": context.job.kind})
            message = f"the end of the job could not be stored: {type(exc).__name__}: {exc}"
            self._settle(context, self._failed(context.job, HeliuError(message, retryable=True)))

    def _settle(self, context: JobContext, end: Callable[[], Job]) -> None:
        left = end()
        context.span.set_all({semconv.JOB_STATE: left.state.value})
        self.metrics.jobs_ended.labels(left.kind, left.state.value).inc()

    def _stopped(self, context: JobContext, reason: Stop) -> Callable[[], Job]:
        job = context.job
        if reason is Stop.LOST:
            raise LeaseLost(job.id, job.epoch)
        if reason is Stop.CANCEL:
            return lambda: self._leave(job, Status.CANCELLED, message="cancelled on request")
        if reason is Stop.PAUSE:
            return lambda: self._leave(job, Status.PAUSED, message="paused at a checkpoint", charged=False)
        if reason is Stop.DRAIN:
            return lambda: self._leave(
                job, Status.QUEUED, message="given back by a draining worker", charged=False
            )
        if reason is Stop.TIME_LIMIT:
            error = {
                "code": "time_limit_exceeded",
                "message": f"ran longer than its limit of {job.time_limit_s} s",
            }
            return lambda: self._leave(job, Status.FAILED, message=error["message"], error=error)
        stall = HeliuError("made no progress within its stall limit", code="stalled", retryable=True)
        return self._failed(job, stall)

    def _failed(self, job: Job, exc: HeliuError) -> Callable[[], Job]:
        error: dict[str, Any] = {"code": exc.code, "message": exc.message, "param": exc.param}
        if not exc.retryable:
            return lambda: self._leave(job, Status.FAILED, message=exc.message, error=error)
        if job.attempt >= job.max_attempts:
            return lambda: self._leave(
                job,
                Status.DEAD,
                message=f"{exc.message} (attempt {job.attempt} of {job.max_attempts})",
                error=error,
            )
        pause = backoff(job.attempt)
        return lambda: self._leave(job, Status.QUEUED, message=exc.message, error=error, delay=pause)

    def _leave(
        self, job: Job, target: Status, *, write: Callable[[Connection], None] | None = None, **options: Any
    ) -> Job:
        def work(connection: Connection) -> Job:
            if write is not None:
                job_store.fence(connection, job.id, job.epoch)
                write(connection)
            return job_store.leave(connection, job, target, **options)

        if write is not None:
            return self._write(work, tenant_of=job)
        return self._write(work)

    def _write(self, work: Callable[[Connection], Job], tenant_of: Job | None = None) -> Job:
        """Run the ending transaction; a lost COMMIT reply is settled by reading the job again."""
        unknown = False

        def once() -> Job:
            nonlocal unknown
            try:
                with self.db.transaction(tenant_of.tenant_id) if tenant_of else self.db.core() as connection:
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
        with self.db.core() as connection:
            job = job_store.get(connection, job_id)
        return job if job.epoch == epoch and job.state is not Status.LEASED else None

    def _beat(self) -> None:
        while not self._closed.wait(self._heartbeat_s):
            try:
                self.renew()
            except Unavailable as exc:
                log.warning("renewal_failed", extra={"error": exc.message})
            except Exception:
                log.exception("heartbeat_raised")
            self._watch()

    def renew(self) -> None:
        """Push every held lease on, and pass cancel and pause requests to the handlers."""
        with self._lock:
            held = dict(self._held)
        if not held:
            return
        asked_at = time.monotonic()
        with self.db.core() as connection:
            renewed = {(r.id, r.epoch): r for r in job_store.renew(connection, list(held), self._lease)}
        for key, context in held.items():
            renewal = renewed.get(key)
            if renewal is None:
                if key in self._held:
                    context.stop(Stop.LOST)
                continue
            context.renewed_at = asked_at
            if renewal.cancel and not context.job.progress.get("finalize_on_cancel"):
                context.stop(Stop.CANCEL)
            elif renewal.pause:
                context.stop(Stop.PAUSE)

    def _watch(self) -> None:
        """Stop what has outlived its lease, its time limit or its stall limit."""
        now = time.monotonic()
        with self._lock:
            held = list(self._held.values())
        for context in held:
            limit = context.job.time_limit_s
            if now - context.renewed_at > 0.8 * self._lease.total_seconds():
                context.stop(Stop.LOST)
            elif limit is not None and now - context.started_at > limit:
                context.stop(Stop.TIME_LIMIT)
            elif context.contract.stall_limit_s and now - context.touched_at > context.contract.stall_limit_s:
                context.stop(Stop.STALLED)

    def drain(self) -> None:
        """Stop claiming and ask every running job to give itself back at its next checkpoint."""
        self.draining.set()
        with self._lock:
            held = list(self._held.values())
        for context in held:
            context.stop(Stop.DRAIN)

    def close(self) -> None:
        self._closed.set()
        self._heart.join()


def _waited(job: Job) -> float:
    """Seconds since the job might have started, told at its claim."""
    return max(0.0, time.time() - job.run_at.timestamp())


def backoff(attempt: int) -> timedelta:
    """Full jitter: uniform between 0 and base * 2^attempt, capped (AWS architecture blog, 2015)."""
    return timedelta(seconds=random.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2**attempt)))
