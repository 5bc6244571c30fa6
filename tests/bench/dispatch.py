"""The job core against Celery by itself: from submitting to starting, and how many jobs a second."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from statistics import median

from shared import job_store
from shared.contracts.core import Noop
from shared.jobs import NewJob, new_id
from tests.bench.celery_worker import NOOP, NOTE, QUEUE, SLOTS, celery_app
from tests.bench.figures import Figure, quantile
from tests.bench.place import Place
from tests.harness import wait_for

PATIENCE_S = 120
IDLE_GOAL_MS = 150.0
SPANS = """
SELECT count(*) AS jobs, extract(epoch FROM max(finished_at) - min(started_at))::float8 AS seconds
FROM core.job WHERE id = ANY(%s) AND state = 'succeeded'"""


def submit_to_claimed(place: Place) -> list[Figure]:
    """One at a time on an idle platform: what a single job waits."""
    count = place.size(150, 8)
    with (
        place.running("dispatcher"),
        place.running("monitoring", module="tests.bench.noop_worker"),
        place.running("celery", module="tests.bench.celery_worker", BENCH_POOL="threads"),
    ):
        celery = celery_app(place.redis_url, "threads")

        def rung() -> float:
            return _submitted(place, ring=True)

        def published() -> float:
            key = new_id("note-")
            started = time.monotonic_ns()
            celery.send_task(NOTE, args=[key], queue=QUEUE, ignore_result=True)
            return _heard(place, key, started)

        # In turns, so that whatever else the machine does falls on both.
        ours, theirs = _in_turns(count, rung, published)
        (polled,) = _in_turns(place.size(60, 5), lambda: _submitted(place, ring=False))
        celery.close()
    how = f"{count} jobs one by one, in turns with {count} Celery tasks, 4 threads each;"
    return [
        Figure(
            "submit_to_claimed_p50",
            median(ours),
            "ms",
            "Celery publish to run",
            median(theirs),
            f"{how} clock from before INSERT (commit, doorbell, claim follow); goal 2",
        ),
        Figure(
            "submit_to_claimed_p95",
            quantile(ours, 0.95),
            "ms",
            "Celery publish to run",
            quantile(theirs, 0.95),
            f"{how} the same",
        ),
        Figure(
            "idle_polled_p95",
            quantile(polled, 0.95),
            "ms",
            "its limit",
            IDLE_GOAL_MS,
            f"{len(polled)} jobs without a doorbell: the dispatcher's poll alone finds them; goal under 1",
        ),
    ]


def dispatch_rate(place: Place) -> list[Figure]:
    """How fast four slots get through a backlog of jobs that do nothing."""
    count, repeats = place.size(800, 40), place.size(3, 1)
    rates: list[float] = []
    peers: list[float] = []
    with place.running("dispatcher"), place.running("monitoring"):
        for _ in range(repeats):
            rates.append(_drain_jobs(place, count))
    with place.running("celery", module="tests.bench.celery_worker", BENCH_POOL="threads"):
        for _ in range(repeats):
            peers.append(_drain_tasks(place, count))
    how = f"a backlog of {count}, {SLOTS} slots, from the first start to the last end, median of {repeats}"
    return [Figure("dispatch_rate", median(rates), "jobs/s", "Celery no-op tasks/s", median(peers), how)]


def _submitted(place: Place, *, ring: bool) -> float:
    new = NewJob(
        id=new_id("job_"), tenant_id=place.harness.tenant, kind=Noop.kind, queue=Noop.queue_for(), payload={}
    )
    publisher = place.publisher
    started = time.monotonic_ns()
    with place.harness.db.transaction(new.tenant_id) as connection:
        job_store.submit(connection, new)
    if ring:
        publisher.ring(new.queue)
    waited = _heard(place, new.id, started)
    place.harness.wait_job(new.id)
    return waited


def _heard(place: Place, key: str, started: int) -> float:
    """Milliseconds from `started` to the time that arrives in the list `key`."""
    answer = place.redis.blpop([key], timeout=PATIENCE_S)
    if answer is None:
        raise TimeoutError(f"{key} was not run in {PATIENCE_S} s")
    return (int(answer[1]) - started) / 1e6


def _in_turns(count: int, *kinds: Callable[[], float]) -> list[list[float]]:
    rng = random.Random(1)
    for kind in kinds:
        for _ in range(3):
            kind()
    found: list[list[float]] = [[] for _ in kinds]
    for _ in range(count):
        for values, kind in zip(found, kinds, strict=True):
            # At a moment that has nothing to do with the dispatcher's clock.
            time.sleep(rng.uniform(0.0, 0.05))
            values.append(kind())
    return found


def _drain_jobs(place: Place, count: int) -> float:
    tenant = place.harness.tenant
    ids = [new_id("job_") for _ in range(count)]
    with place.harness.db.transaction(tenant) as connection:
        for job_id in ids:
            new = NewJob(id=job_id, tenant_id=tenant, kind=Noop.kind, queue=Noop.queue_for(), payload={})
            job_store.submit(connection, new)
    place.publisher.ring(Noop.queue_for(), SLOTS)
    wait_for(lambda: _span(place, ids)[0] == count, PATIENCE_S, f"{count} jobs")
    return count / _span(place, ids)[1]


def _span(place: Place, ids: Sequence[str]) -> tuple[int, float]:
    with place.harness.db.core() as connection:
        row = connection.execute(SPANS, (list(ids),)).fetchone()
    assert row is not None
    return row["jobs"], row["seconds"]


def _drain_tasks(place: Place, count: int) -> float:
    """All are published while the worker is stopped, so that it too meets a backlog."""
    key = new_id("noop-")
    celery = celery_app(place.redis_url, "threads")
    (worker,) = [one for one in place.harness.processes if one.service == "celery" and one.alive]
    worker.signal(signal.SIGSTOP)
    try:
        for _ in range(count):
            celery.send_task(NOOP, args=[key, count], queue=QUEUE, ignore_result=True)
    finally:
        worker.signal(signal.SIGCONT)
    celery.close()
    answer = place.redis.blpop([key], timeout=PATIENCE_S)
    if answer is None:
        raise TimeoutError(f"{count} Celery tasks did not end in {PATIENCE_S} s")
    return count / float(answer[1])
