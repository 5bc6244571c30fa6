"""`python -m services.dispatcher.main`: rings doorbells, reaps leases, delivers webhooks. Any number may run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from services.dispatcher import repository
from services.dispatcher.deliver import Deliverer
from services.dispatcher.preempt import Preemptor, Thresholds
from services.dispatcher.relay import ring_where_needed
from services.dispatcher.schedules import fire_due
from shared import job_requests, job_store
from shared.errors import HeliuError, Unavailable
from shared.metrics import announce
from shared.outbound import OutboundClient
from shared.queue import Publisher
from shared.settings import read_settings
from shared.worker import Platform, open_platform

log = logging.getLogger(__name__)

REAP_S = 1.0
DELIVER_S = 0.5
SLOTS_S = 2.0
SCHEDULES_S = 1.0
PREEMPT_S = 0.5
FORGET_S, FORGET_AT_ONCE = 60.0, 1000
KEEP_WORKERS = timedelta(days=1)


class Dispatcher:
    """Each of its works in a loop of its own, so that a Redis that hangs stops no reaping."""

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
            job_requests.expire_overdue(connection)
            repository.forget_workers(connection, KEEP_WORKERS)
        return ended

    def run_relay(self) -> None:
        self._every(self._platform.settings.poll_seconds, self.relay_once)

    def run_reaper(self) -> None:
        self._every(REAP_S, self.reap_once)

    def fire_schedules(self) -> int:
        """Submit the syncs whose moment has come; returns how many."""
        return fire_due(self._platform.db)

    def run_schedules(self) -> None:
        self._every(SCHEDULES_S, self.fire_schedules)

    def forget_chats(self) -> int:
        """Drop stored chats that are older than the platform keeps them; returns how many."""
        days, dropped = self._platform.settings.stored_chat_days, 0
        while days and not self._stop.is_set():
            with self._platform.db.core() as connection:
                some = repository.forget_chats(connection, timedelta(days=days), FORGET_AT_ONCE)
            dropped += some
            if some < FORGET_AT_ONCE:
                break
        return dropped

    def run_forgetting(self) -> None:
        self._every(FORGET_S, self.forget_chats)

    def run_preemption(self) -> None:
        settings = self._platform.settings
        thresholds = Thresholds(
            settings.preempt_waiting, settings.preempt_seconds, settings.preempt_calm_seconds
        )
        preemptor = Preemptor(self._platform.db, self._publisher, settings.preempt_rules, thresholds)
        self._every(PREEMPT_S, preemptor.look)

    def run_deliveries(self) -> None:
        settings = self._platform.settings
        client = OutboundClient(
            timeout_s=settings.webhook_timeout_seconds, allow_private=settings.webhook_allow_private
        )
        deliverer = Deliverer(self._platform.db, client)
        self._every(DELIVER_S, deliverer.deliver_due)
        deliverer.close()

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        """Call `work` until the process stops: nothing that it raises may end its loop."""
        while not self._stop.wait(seconds):
            try:
                work()
            except Unavailable as exc:
                log.warning("dispatcher_waits", extra={"work": work.__name__, "error": exc.message})
                self._stop.wait(1.0)
            except Exception:
                log.exception("dispatcher_raised", extra={"work": work.__name__})
                self._stop.wait(1.0)


def main() -> int:
    try:
        settings = read_settings(os.environ)
        platform = open_platform(settings, "dispatcher", max_connections=10)
        address = platform.metrics.serve(settings.metrics_host, settings.metrics_port)
    except HeliuError as exc:
        sys.stderr.write(f"dispatcher: {exc.message}\n")
        return 78
    publisher = Publisher(settings.redis_url, platform.tracing)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    dispatcher = Dispatcher(platform, publisher, stop)
    loops = (
        dispatcher.run_relay,
        dispatcher.run_reaper,
        dispatcher.run_deliveries,
        dispatcher.run_schedules,
        dispatcher.run_forgetting,
        dispatcher.run_preemption,
    )
    threads = [threading.Thread(target=loop, name=loop.__name__) for loop in loops]
    for thread in threads:
        thread.start()
    announce(settings.ready_file, address)
    log.info("dispatcher_started", extra={"metrics": address})
    for thread in threads:
        thread.join()
    publisher.close()
    platform.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
