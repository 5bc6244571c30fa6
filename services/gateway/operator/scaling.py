"""How many workers a pool should have. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

OLD_S = 60.0


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
