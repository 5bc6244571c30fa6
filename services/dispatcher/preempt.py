"""Who gives way to whom: training to a peak of live requests on the same machines, and a job to a more urgent one.

One job of a queue is asked at a time, so that no more stop than must. Any number of dispatchers may run: each watches
the lines for itself, and what is asked and held stands in Postgres. Knows no Celery.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.dispatcher import preemption_repository as repository
from shared import preemption
from shared.db import Connection, Database
from shared.errors import Unavailable
from shared.jobs import Job
from shared.settings import PreemptRule

log = logging.getLogger(__name__)

# A free worker takes a job within a tenth of a second.
NO_WORKER_S = 3.0
JOB, PEAK = "job ", "peak "


class Line(Protocol):
    """What is asked of the queue."""

    def backlog(self, queue: str) -> int: ...


@dataclass(frozen=True)
class Thresholds:
    """A peak is `waiting` live requests or more for `seconds`; over, when none has waited for `calm_seconds`."""

    waiting: int
    seconds: float
    calm_seconds: float


class Peak:
    """Tells from looks at one line whether there is a peak: it begins and ends by different signs. Pure."""

    def __init__(self, thresholds: Thresholds, now: float) -> None:
        self._limits = thresholds
        self._high_since: float | None = None
        self._calm_since: float | None = now
        self.on = False
        # At first nothing is known, and what another dispatcher holds is not let go before a calm of its own.
        self.over = False

    def look(self, waiting: int, now: float) -> None:
        self._high_since = _since(self._high_since, waiting >= self._limits.waiting, now)
        # A line of which nothing is known is not calm.
        self._calm_since = _since(self._calm_since, waiting == 0, now)
        if self._high_since is not None and now - self._high_since >= self._limits.seconds:
            self.on, self.over = True, False
        elif self._calm_since is not None and now - self._calm_since >= self._limits.calm_seconds:
            self.on, self.over = False, True
        elif self._calm_since is None and not self.on:
            self.over = False


def _since(known: float | None, holds: bool, now: float) -> float | None:
    """Since when something holds, at a look more."""
    if not holds:
        return None
    return now if known is None else known


class Preemptor:
    """One per dispatcher."""

    def __init__(
        self,
        db: Database,
        line: Line,
        rules: Sequence[PreemptRule],
        thresholds: Thresholds,
        *,
        no_worker_s: float = NO_WORKER_S,
    ) -> None:
        self._db = db
        self._no_worker_s = no_worker_s
        # Since when each job has been seen as the next of its queue.
        self._next: dict[str, dict[str, float]] = {}
        self._line = line
        self._thresholds = thresholds
        self._rules = list(rules)
        self._peaks: dict[PreemptRule, Peak] = {}

    def look(self) -> list[str]:
        """Watch the lines, ask and let go where it is time; returns the jobs asked. Raises Unavailable."""
        self._watch()
        with self._db.core() as connection:
            found = set(repository.queues(connection))
        asked: list[str] = []
        for queue in sorted(found | {rule.yields for rule, peak in self._peaks.items() if peak.on}):
            with self._db.core() as connection:
                if repository.take_turn(connection, queue):
                    asked += self._decide(connection, queue)
        return asked

    def _watch(self) -> None:
        now = time.monotonic()
        for rule in self._rules:
            peak = self._peaks.setdefault(rule, Peak(self._thresholds, now))
            with self._db.core() as connection:
                # Where nobody hears a line, no machine is freed for it.
                lines = repository.live_queues(connection, f"{rule.to}.")
            try:
                waiting = sum(self._line.backlog(queue) for queue in lines)
            except Unavailable as exc:
                # Neither a peak nor the end of one can be seen.
                log.warning("line_unknown", extra={"pool": rule.to, "error": exc.message})
                continue
            was = peak.on
            peak.look(waiting, now)
            if peak.on != was:
                log.warning(
                    "peak_begins" if peak.on else "peak_over", extra={"rule": str(rule), "waiting": waiting}
                )

    def _decide(self, connection: Connection, queue: str) -> list[str]:
        self._let_go(connection, queue)
        asked: list[str] = []
        for rule, peak in self._peaks.items():
            if rule.yields == queue and peak.on:
                asked += self._to_peak(connection, queue, rule)
        return asked + self._to_urgent(connection, queue)

    def _to_peak(self, connection: Connection, queue: str, rule: PreemptRule) -> list[str]:
        cause, reason = f"{PEAK}{rule}", f"live requests wait on {rule.to}"
        preemption.hold_queued(connection, queue, cause, reason)
        if repository.is_under_way(connection, queue, cause, self._thresholds.seconds):
            return []
        job = repository.victim(connection, queue)
        return [job.id] if job is not None and preemption.ask(connection, job, cause, reason) else []

    def _to_urgent(self, connection: Connection, queue: str) -> list[str]:
        """A tenant's own priorities: nobody's job gives way to another tenant's."""
        asked = []
        for waiting in self._unserved(connection, queue):
            cause = f"{JOB}{waiting.id}"
            if repository.is_under_way(connection, queue, cause, None):
                # One job gave its place up for this one already; what came of it is another tenant's turn.
                continue
            job = repository.victim(connection, queue, tenant=waiting.tenant_id, below=waiting.priority)
            reason = f"{waiting.id} has priority {waiting.priority}"
            if job is not None and preemption.ask(connection, job, cause, reason):
                asked.append(job.id)
        return asked

    def _unserved(self, connection: Connection, queue: str) -> list[Job]:
        """Jobs that have been next to start for so long that no worker can be free."""
        now, known = time.monotonic(), self._next.get(queue, {})
        found = repository.next_to_start(connection, queue)
        self._next[queue] = {job.id: known.get(job.id, now) for job in found}
        return [job for job in found if now - self._next[queue][job.id] >= self._no_worker_s]

    def _let_go(self, connection: Connection, queue: str) -> None:
        """Let go what waits for nothing any more, a rule that is not set any more among it."""
        held = repository.held(connection, queue)
        urgent = [cause.removeprefix(JOB) for cause, _ in held if cause.startswith(JOB)]
        still = {f"{JOB}{job}" for job in repository.waiting(connection, urgent)} if urgent else set()
        still |= {f"{PEAK}{rule}" for rule, peak in self._peaks.items() if not peak.over}
        for cause, job in held:
            if cause not in still:
                preemption.let_go(connection, job)
