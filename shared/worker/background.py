"""Threads for the jobs of one queue, beside those that serve live requests."""

from __future__ import annotations

import logging
import threading
import time

from shared.errors import Unavailable
from shared.runner import JobRunner

log = logging.getLogger(__name__)


class Background:
    """Runs claimed jobs of one queue on at most `limit` threads, so that a doorbell never holds a live slot."""

    def __init__(self, runner: JobRunner, queue: str, limit: int) -> None:
        self._runner = runner
        self._queue = queue
        self._limit = limit
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def hear(self, doorbell: str | None) -> None:
        """Start one more thread on the queue, unless the limit is reached or the worker drains."""
        with self._lock:
            if len(self._threads) >= self._limit or self._runner.draining.is_set():
                return
            thread = threading.Thread(target=self._work, args=(doorbell,), name=self._queue, daemon=True)
            self._threads.add(thread)
        thread.start()

    def _work(self, doorbell: str | None) -> None:
        try:
            self._runner.run_queue(self._queue, doorbell)
        except Unavailable as exc:
            log.warning("claim_failed", extra={"queue": self._queue, "error": exc.message})
        except Exception:
            log.exception("queue_thread_raised", extra={"queue": self._queue})
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    @property
    def free(self) -> bool:
        return len(self._threads) < self._limit

    def join(self, deadline: float) -> bool:
        """Wait for the threads until `deadline` (monotonic); True when all have ended."""
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        return not self._threads
