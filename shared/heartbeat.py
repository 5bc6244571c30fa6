"""What keeps the claims of a worker: renewals, word of who wants a job stopped, and a clock that stops what is overdue.

Knows no queue and no handler, only the contexts of jobs that run.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta

from shared import job_store
from shared.db import Database
from shared.errors import Unavailable
from shared.job_context import JobContext
from shared.job_store import Renewal
from shared.stop import Stop

log = logging.getLogger(__name__)

# Whoever cancels or pauses waits for this long at most, and not for the next renewal.
REQUESTS_S = 1.0


class Heartbeat:
    """Of the jobs of one worker, on two threads from its making until it is closed."""

    def __init__(self, db: Database, lease: timedelta, heartbeat_s: float) -> None:
        self._db = db
        self._lease = lease
        self._heartbeat_s = heartbeat_s
        self._held: dict[tuple[str, int], JobContext] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        # Two threads: a Postgres that hangs holds up the renewals, and must not hold up what their absence means.
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("heartbeat", self._beat), ("guard", self._guard))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def held(self) -> list[JobContext]:
        with self._lock:
            return list(self._held.values())

    def hold(self, context: JobContext) -> None:
        """Renew the lease of this job from now on."""
        with self._lock:
            self._held[context.job.id, context.job.epoch] = context

    def release(self, context: JobContext) -> None:
        with self._lock:
            self._held.pop((context.job.id, context.job.epoch), None)

    def _beat(self) -> None:
        due = time.monotonic() + self._heartbeat_s
        while not self._closed.wait(min(REQUESTS_S, max(0.0, due - time.monotonic()))):
            try:
                if time.monotonic() < due:
                    self.hear_requests()
                else:
                    due = time.monotonic() + self._heartbeat_s
                    self.renew()
            except Unavailable as exc:
                log.warning("renewal_failed", extra={"error": exc.message})
            except Exception:
                log.exception("heartbeat_raised")

    def _guard(self) -> None:
        while not self._closed.wait(min(REQUESTS_S, self._heartbeat_s)):
            self._watch()

    def renew(self) -> None:
        """Push every held lease on, and pass cancel and pause requests to the handlers."""
        with self._lock:
            held = dict(self._held)
        if not held:
            return
        asked_at = time.monotonic()
        with self._db.core() as connection:
            renewed = {(r.id, r.epoch): r for r in job_store.renew(connection, list(held), self._lease)}
        for key, context in held.items():
            renewal = renewed.get(key)
            if renewal is None:
                if key in self._held:
                    context.stop(Stop.LOST)
                continue
            context.renewed_at = asked_at
            _pass_on(renewal, context)

    def hear_requests(self) -> None:
        """Pass cancel and pause requests to the handlers that have not been asked to stop yet."""
        with self._lock:
            held = {key: context for key, context in self._held.items() if context.reason is None}
        if not held:
            return
        with self._db.core() as connection:
            requests = job_store.requested(connection, list(held))
        for request in requests:
            _pass_on(request, held[request.id, request.epoch])

    def _watch(self) -> None:
        """Stop what has outlived its lease, its time limit or its stall limit."""
        now = time.monotonic()
        for context in self.held:
            limit = context.job.time_limit_s
            if now - context.renewed_at > 0.8 * self._lease.total_seconds():
                context.stop(Stop.LOST)
            elif limit is not None and now - context.started_at > limit:
                context.stop(Stop.TIME_LIMIT)
            elif context.contract.stall_limit_s and now - context.touched_at > context.contract.stall_limit_s:
                context.stop(Stop.STALLED)

    def close(self) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()


def _pass_on(renewal: Renewal, context: JobContext) -> None:
    if renewal.cancel and not context.job.progress.get("finalize_on_cancel"):
        context.stop(Stop.CANCEL)
    elif renewal.pause:
        context.stop(Stop.PAUSE)
    elif renewal.preempt:
        context.stop(Stop.PREEMPT)
