"""How many workers a pool should have. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

OLD_S = 60.0


@dataclass(frozen=True)
class Capacity:
    """What a pool's living workers have for its queues: their slots, and how many of these are taken."""

    workers: int
    slots: int
    busy: int
    # Workers that do anything at all, of this pool or of another queue of theirs.
    busy_workers: int

    @property
    def slots_each(self) -> int:
        return math.ceil(self.slots / self.workers) if self.workers else 1


def capacity(workers: Collection[Mapping[str, Any]], queues: Collection[str]) -> Capacity:
    """Of living workers (`queues`, `slots`, `busy`; `job_slots` and `running` by queue) what is for these queues.

    What no job queue has of a worker's slots is for live requests; all of it, where a worker does not tell.
    """
    slots = busy = 0
    for worker in workers:
        job_slots, running = worker["job_slots"] or {}, worker["running"] or {}
        jobs = [queue for queue in worker["queues"] if queue in queues and queue in job_slots]
        slots += sum(job_slots[queue] for queue in jobs)
        busy += sum(running.get(queue, 0) for queue in jobs)
        if any(queue in queues and queue not in job_slots for queue in worker["queues"]):
            slots += worker["slots"] - sum(job_slots.values())
            busy += worker["busy"] - sum(running.values())
    return Capacity(len(workers), slots, busy, sum(worker["busy"] > 0 for worker in workers))


def queues_by_name(pool: str, templates: Iterable[str]) -> set[str]:
    """The queues that the contracts give a pool of this name, whether one of its workers was ever seen or not.

    `templates` are names as contracts have them: `inference.{pool}.live`.
    """
    parts = pool.split(".")
    found: set[str] = set()
    for template in templates:
        shape = template.split(".")
        fits = len(parts) <= len(shape) and all(
            part and wanted in (part, "{pool}") for part, wanted in zip(parts, shape, strict=False)
        )
        rest = shape[len(parts) :]
        if fits and "{pool}" not in rest:
            found.add(".".join([*parts, *rest]))
    return found


def desired_workers(
    *, waiting: int, busy_slots: int, slots_each: int, busy_workers: int, oldest_s: float, workers: int
) -> int:
    """ceil((running + waiting) / slots of a worker), one more than now while old work waits, never fewer than busy.

    Counting what runs keeps a scaler from stopping workers that have just emptied the line.
    """
    wanted = math.ceil((busy_slots + waiting) / max(slots_each, 1))
    if waiting and oldest_s > OLD_S:
        wanted = max(wanted, workers + 1)
    return max(wanted, busy_workers)
