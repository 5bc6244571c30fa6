"""`python -m tests.bench.celery_worker`: Celery by itself on the same Redis, as the peer of the job core.

BENCH_POOL is `threads` (Celery's own defaults), `stock` or `waking` (the platform's settings with Celery's thread
pool or with ours). Times go to Redis lists in nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from celery.signals import worker_ready

from shared.queue import broker_url, make_app

SLOTS = 4
NOTE, NOOP, NAP = "bench.note", "bench.noop", "bench.nap"
QUEUE = "bench"
POOLS = {"threads": "threads", "stock": "threads", "waking": "shared.queue:WakingPool"}


def celery_app(redis_url: str, pool: str) -> Celery:
    """The application that both sides use."""
    if pool == "threads":
        return Celery("bench", broker=broker_url(redis_url), set_as_current=False)
    return make_app(redis_url)


class Counter:
    """When the first of `total` tasks began and the last ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._first = 0

    def add(self, total: int) -> float | None:
        """Seconds, at the last one."""
        with self._lock:
            now = time.monotonic_ns()
            if self._count == 0:
                self._first = now
            self._count += 1
            if self._count < total:
                return None
            self._count = 0
            return (now - self._first) / 1e9


def main() -> int:
    redis_url, pool = os.environ["HELIU_REDIS_URL"], os.environ["BENCH_POOL"]
    app = celery_app(redis_url, pool)
    client = redis.Redis.from_url(redis_url)
    counter = Counter()

    @app.task(name=NOTE, ignore_result=True)
    def note(key: str) -> None:
        client.rpush(key, time.monotonic_ns())

    @app.task(name=NOOP, ignore_result=True)
    def noop(key: str, total: int) -> None:
        seconds = counter.add(total)
        if seconds is not None:
            client.rpush(key, seconds)

    @app.task(name=NAP, ignore_result=True)
    def nap(key: str, seconds: float) -> None:
        started = time.monotonic_ns()
        time.sleep(seconds)
        ended = time.monotonic_ns()
        client.rpush(key, f"{started} {ended}")

    def ready(**_: Any) -> None:
        Path(os.environ["HELIU_READY_FILE"]).touch()

    worker_ready.connect(ready, weak=False)
    worker = app.Worker(
        hostname=f"bench-{pool}",
        pool=POOLS[pool],
        concurrency=SLOTS,
        queues=[QUEUE],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
    )
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
