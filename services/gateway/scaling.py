"""How many workers a pool should have. Pure."""

from __future__ import annotations

import math

OLD_S = 60.0


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
