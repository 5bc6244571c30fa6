"""A worker process from two tables of handlers: wiring, registration, reports and the order of a drain."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from shared import job_store, streams
from shared.contracts.base import JobContract, LiveCall
from shared.db import retrying
from shared.errors import HeliuError, Unavailable
from shared.job_context import Handler
from shared.live_server import LiveHandler, LiveServer
from shared.metrics import announce
from shared.queue import QueueWorker
from shared.runner import JobRunner
from shared.watchdog import Look, Verdict, Watchdog
from shared.worker.background import Background
from shared.worker.parts import Platform

log = logging.getLogger(__name__)

REGISTER = """
INSERT INTO core.worker (id, name, service, pool, queues, host, pid, slots, metrics_address, info)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING"""

REPORT = "UPDATE core.worker SET heartbeat_at = now(), busy = %s, state = %s, info = info || %s WHERE id = %s"

REPORT_S = 2.0


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker takes: its job queues with how many jobs it runs of each at once, and its live slots.

    `live_queues` are more of them beside `live_queue`, or in its place.
    """

    service: str
    job_queues: Mapping[str, int]
    live_queue: str | None = None
    live_slots: int = 0
    live_queues: tuple[str, ...] = ()


class Worker:
    """One worker process, from `run` to its end."""

    def __init__(
        self,
        platform_: Platform,
        spec: WorkerSpec,
        jobs: Mapping[type[JobContract], Handler],
        calls: Mapping[type[LiveCall], LiveHandler] | None = None,
        *,
        on_stop: Sequence[Callable[[], None]] = (),
        info: Callable[[], dict[str, Any]] = dict,
        watchdog: Watchdog | None = None,
    ) -> None:
        settings = platform_.settings
        self._platform = platform_
        self._spec = spec
        self._info = info
        self._on_stop = on_stop
        self.name = (
            settings.worker_name
            or f"{spec.service}.{settings.pool}.{platform.node()}.{settings.worker_index}"
        )
        self.id = f"{self.name}:{secrets.token_hex(6)}"
        self.runner = JobRunner(
            platform_.db,
            jobs,
            worker_id=self.id,
            tracing=platform_.tracing,
            metrics=platform_.metrics,
            lease_s=settings.lease_seconds,
            heartbeat_s=settings.heartbeat_seconds,
        )
        self._backgrounds = {q: Background(self.runner, q, limit) for q, limit in spec.job_queues.items()}
        self._live = LiveServer(
            settings.redis_url,
            calls or {},
            worker_id=self.id,
            tracing=platform_.tracing,
            metrics=platform_.metrics,
        )
        queues = [*spec.job_queues, *([spec.live_queue] if spec.live_queue else []), *spec.live_queues]
        # Doorbells only start a thread, so two slots beside the live ones keep them from waiting behind answers.
        self._queue = QueueWorker(
            settings.redis_url,
            name=self.id.replace(":", "-"),
            queues=queues,
            slots=spec.live_slots + 2 if spec.live_slots else 2,
            on_ring=lambda queue, parent: (
                self._backgrounds[queue].hear(parent) if queue in self._backgrounds else None
            ),
            on_live=self._live.serve,
            on_ready=self._ready,
            on_drain=self.runner.drain,
            drain_s=settings.drain_seconds,
        )
        self._queues = queues
        self._redis = streams.connect(settings.redis_url)
        self._watchdog = watchdog or Watchdog()
        self._metrics_address = ""
        self._closed = threading.Event()

    def run(self) -> int:
        """Register, consume until a signal, drain, leave. Returns the exit code."""
        self._metrics_address = self._platform.metrics.serve(
            self._platform.settings.metrics_host, self._platform.settings.metrics_port
        )
        retrying(lambda: self._register(self._metrics_address), attempts=10, patience=0.2)
        reporter = threading.Thread(target=self._report_for_ever, name="report", daemon=True)
        reporter.start()
        log.info("worker_started", extra={"worker": self.id, "queues": self._queues})
        code = self._queue.run()
        self.runner.drain()
        deadline = time.monotonic() + self._platform.settings.drain_seconds
        ended = [background.join(deadline) for background in self._backgrounds.values()]
        clean = all(ended)
        for stop in self._on_stop:
            stop()
        self._closed.set()
        reporter.join(5)
        self._live.close()
        self._redis.close()
        self._leave()
        self.runner.close()
        self._platform.close()
        log.info("worker_stopped", extra={"worker": self.id, "clean": clean})
        return code if clean else 75

    def _register(self, address: str) -> None:
        spec, settings = self._spec, self._platform.settings
        with self._platform.db.core() as connection:
            connection.execute(
                REGISTER,
                (
                    self.id,
                    self.name,
                    spec.service,
                    settings.pool,
                    self._queues,
                    platform.node(),
                    os.getpid(),
                    sum(spec.job_queues.values()) + spec.live_slots,
                    address,
                    # What no job queue has of `slots` is for live requests, whichever live queue they come from.
                    Jsonb({"slots": dict(spec.job_queues)}),
                ),
            )
            for job in job_store.release_previous(connection, self.name, self.id):
                log.warning("lease_released", extra={"job": job.id, "state": job.state.value})
            connection.execute(
                "UPDATE core.worker SET state = 'stopped' WHERE name = %s AND id <> %s", (self.name, self.id)
            )

    def _ready(self) -> None:
        announce(self._platform.settings.ready_file, self._metrics_address)
        # What was queued while nobody listened needs no doorbell.
        for background in self._backgrounds.values():
            background.hear(None)

    def _report_for_ever(self) -> None:
        while not self._closed.wait(REPORT_S):
            running = self.runner.busy
            busy = sum(running.values()) + self._live.busy
            slots = sum(self._spec.job_queues.values()) + self._spec.live_slots
            self._platform.metrics.busy.set(busy / max(slots, 1))
            state = "draining" if self.runner.draining.is_set() else "running"
            try:
                with self._platform.db.core() as connection:
                    info = {**self._info(), "running": running}
                    connection.execute(REPORT, (busy, state, Jsonb(info), self.id))
                    ready = job_store.ready_queues(connection)
                self._watch(ready)
            except HeliuError as exc:
                log.warning("report_failed", extra={"error": exc.message})
            except Exception:
                # Without reports the dispatcher counts this worker out, and nothing would notice that it is deaf.
                log.exception("report_raised")

    def _watch(self, ready: Collection[str]) -> None:
        """End a process that hears nothing, so that it is started anew; claim by hand before it comes to that."""
        if self.runner.draining.is_set():
            return
        look = Look(
            at=time.monotonic(),
            claimable=[q for q, background in self._backgrounds.items() if q in ready and background.free],
            claimed_at=dict(self.runner.claimed_at),
            in_line=self._in_line(),
            heard_at=self._queue.heard_at,
        )
        for queue, verdict in self._watchdog.judge(look).items():
            if verdict is Verdict.DEAF:
                log.critical("worker_deaf", extra={"worker": self.id, "queue": queue})
                os.kill(os.getpid(), signal.SIGKILL)
            # A lost doorbell, or a Redis that is away, is no reason to die, and none to wait for either.
            log.warning("claim_by_hand", extra={"worker": self.id, "queue": queue})
            self._backgrounds[queue].hear(None)

    def _in_line(self) -> list[str]:
        """Queues whose messages wait while this worker could take one; none when Redis does not tell."""
        if not self._queue.free:
            return []
        try:
            return [queue for queue in self._queues if streams.backlog(self._redis, queue)]
        except Unavailable as exc:
            log.debug("line_unknown", extra={"error": exc.message})
            return []

    def _leave(self) -> None:
        try:
            with self._platform.db.core() as connection:
                connection.execute(REPORT, (0, "stopped", Jsonb({}), self.id))
        except Unavailable as exc:
            log.warning("leave_not_written", extra={"error": exc.message})
