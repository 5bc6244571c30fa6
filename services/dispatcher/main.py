"""`python -m services.dispatcher.main`: rings doorbells, reaps expired leases. Any number may run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

from services.dispatcher import repository
from services.dispatcher.relay import ring_where_needed
from shared import job_store
from shared.errors import HeliuError, Unavailable
from shared.queue import Publisher
from shared.settings import read_settings
from shared.worker import Platform, open_platform

log = logging.getLogger(__name__)

REAP_S = 1.0
SLOTS_S = 2.0
KEEP_WORKERS = timedelta(days=1)


class Dispatcher:
    """The relay and the reaper, each in its own loop, so that a Redis that hangs stops no reaping."""

    def __init__(self, platform: Platform, publisher: Publisher, stop: threading.Event) -> None:
        self._platform = platform
        self._publisher = publisher
        self._stop = stop
        self._slots: dict[str, int] = {}
        self._slots_at = 0.0

    def relay_once(self) -> dict[str, int]:
        """Ring for what waits now; returns the rings by queue."""
        with self._platform.db.core() as connection:
            ready = job_store.ready_queues(connection)
            if ready and time.monotonic() - self._slots_at > SLOTS_S:
                self._slots = repository.slots_by_queue(connection)
                self._slots_at = time.monotonic()
        return ring_where_needed(ready, self._slots, self._publisher)

    def reap_once(self) -> int:
        """End one expired lease at a time until there is none; returns how many."""
        ended = 0
        while not self._stop.is_set():
            with self._platform.db.core() as connection:
                reaped = job_store.reap(connection)
            if not reaped:
                break
            ended += 1
            self._platform.metrics.leases_expired.inc()
            log.warning("lease_expired", extra={"job": reaped[0].id, "state": reaped[0].state.value})
        with self._platform.db.core() as connection:
            job_store.expire_overdue(connection)
            repository.forget_workers(connection, KEEP_WORKERS)
        return ended

    def run_relay(self) -> None:
        poll = self._platform.settings.poll_seconds
        while not self._stop.wait(poll):
            try:
                self.relay_once()
            except Unavailable as exc:
                log.warning("relay_waits", extra={"error": exc.message})
                self._stop.wait(1.0)
            except Exception:
                # A bug in one round must not leave a process that lives and rings no more.
                log.exception("relay_raised")
                self._stop.wait(1.0)

    def run_reaper(self) -> None:
        while not self._stop.wait(REAP_S):
            try:
                self.reap_once()
            except Unavailable as exc:
                log.warning("reaper_waits", extra={"error": exc.message})
            except Exception:
                log.exception("reaper_raised")


def main() -> int:
    try:
        settings = read_settings(os.environ)
        platform = open_platform(settings, "dispatcher", max_connections=4)
    except HeliuError as exc:
        sys.stderr.write(f"dispatcher: {exc.message}\n")
        return 78
    publisher = Publisher(settings.redis_url, platform.tracing)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    dispatcher = Dispatcher(platform, publisher, stop)
    platform.metrics.serve(settings.metrics_host, settings.metrics_port)
    threads = [
        threading.Thread(target=loop, name=loop.__name__)
        for loop in (dispatcher.run_relay, dispatcher.run_reaper)
    ]
    for thread in threads:
        thread.start()
    if settings.ready_file:
        Path(settings.ready_file).touch()
    for thread in threads:
        thread.join()
    publisher.close()
    platform.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
