"""Celery's pool when every slot is busy: how long a freed one idles before it starts the next message."""

from __future__ import annotations

from statistics import median

from shared.jobs import new_id
from tests.bench.celery_worker import NAP, QUEUE, SLOTS, celery_app
from tests.bench.figures import Figure
from tests.bench.place import Place

NAP_S = 0.1
PATIENCE_S = 60


def freed_slot(place: Place) -> list[Figure]:
    tasks = place.size(40, 8)
    ours, theirs = _gaps(place, "waking", tasks), _gaps(place, "stock", tasks)
    return [
        Figure(
            "freed_slot_to_start_p50",
            median(ours),
            "ms",
            "stock thread pool",
            median(theirs),
            f"{tasks} naps of {NAP_S} s on {SLOTS} slots without prefetch: from an end to the start that follows",
        )
    ]


def _gaps(place: Place, pool: str, tasks: int) -> list[float]:
    """Milliseconds from each end to the start that took its slot: the k-th end makes room for start k + SLOTS."""
    key = new_id("nap-")
    with place.running("celery", module="tests.bench.celery_worker", BENCH_POOL=pool):
        app = celery_app(place.redis_url, pool)
        for _ in range(tasks):
            app.send_task(NAP, args=[key, NAP_S], queue=QUEUE, ignore_result=True)
        app.close()
        naps = [_nap(place, key) for _ in range(tasks)]
    starts, ends = sorted(start for start, _ in naps), sorted(end for _, end in naps)
    return [(start - end) / 1e6 for end, start in zip(ends, starts[SLOTS:], strict=False)]


def _nap(place: Place, key: str) -> tuple[int, int]:
    answer = place.redis.blpop([key], timeout=PATIENCE_S)
    if answer is None:
        raise TimeoutError(f"a nap did not end in {PATIENCE_S} s")
    start, end = answer[1].split()
    return int(start), int(end)
