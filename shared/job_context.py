"""What a handler works with: its job's context, and how it says that it ended. Every write here is fenced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shared import job_store
from shared.contracts.base import JobContract
from shared.db import Connection, Database, retrying
from shared.jobs import Job, NewJob, Status, new_id
from shared.stop import Stop, Stopped
from shared.telemetry import Span, Tracing


@dataclass(frozen=True)
class Outcome:
    """How a handler ended well: `write` runs inside the transaction that ends the job."""

    result: dict[str, Any] = field(default_factory=dict)
    status: Status = Status.SUCCEEDED
    error: dict[str, Any] | None = None
    write: Callable[[Connection], None] | None = None


@dataclass(frozen=True)
class Waiting:
    """The job has parts: it comes back, with `progress` merged into its own, when all of them have ended.

    `awaited` are those of its parts that it handed out before and has not seen end. With `any_of` it comes back when
    the first of all these ends. `write` runs, as the job's tenant, in the transaction that hands `children` out.
    """

    children: Sequence[NewJob]
    progress: dict[str, Any]
    awaited: Sequence[str] = ()
    any_of: bool = False
    write: Callable[[Connection], None] | None = None


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
        self._lock = threading.Lock()
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

    def part(
        self,
        payload: JobContract,
        queue: str,
        *,
        job_id: str | None = None,
        cost: float = 1.0,
        traceparent: str | None = None,
    ) -> NewJob:
        """A job of the same tenant, key and priority that this one hands out and waits for."""
        return NewJob(
            id=job_id or new_id(payload.id_prefix),
            tenant_id=self.job.tenant_id,
            kind=payload.kind,
            queue=queue,
            payload=payload.dump(),
            priority=self.job.priority,
            max_attempts=payload.max_attempts,
            max_crashes=payload.max_crashes,
            cost=cost,
            parent_id=self.job.id,
            api_key_id=self.job.api_key_id,
            traceparent=traceparent or self.span.traceparent,
        )

    def touch(self) -> None:
        """Say that the job moves: the watchdog ends jobs that are alive and stuck."""
        self.touched_at = time.monotonic()

    def stop(self, reason: Stop) -> None:
        """Ask the handler to stop; the first reason stands, except that a lost lease overrules."""
        with self._lock:
            if self.reason is None or reason is Stop.LOST:
                self.reason = reason
        self.asked.set()

    def check(self) -> None:
        """Raise Stopped when the job is asked to stop: call it between steps."""
        if self.asked.is_set():
            assert self.reason is not None
            raise Stopped(self.reason)


Handler = Callable[[JobContext, Any], Outcome | Waiting]
