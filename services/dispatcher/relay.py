"""Rings where work waits: turns the count of claimable jobs into doorbells. Knows no Celery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Bell(Protocol):
    """What the relay needs of a publisher."""

    def backlog(self, queue: str) -> int: ...

    def ring(self, queue: str, times: int = 1) -> int: ...


def ring_where_needed(ready: Mapping[str, int], slots: Mapping[str, int], bell: Bell) -> dict[str, int]:
    """Ring each queue with claimable jobs until as many doorbells wait as can start work; returns the rings.

    `ready` is claimable jobs by queue, `slots` the slots of living workers by queue (one where none is known,
    so that the first worker to come finds a doorbell).
    """
    rung: dict[str, int] = {}
    for queue, jobs in ready.items():
        wanted = min(jobs, max(slots.get(queue, 0), 1)) - bell.backlog(queue)
        if wanted > 0:
            rung[queue] = bell.ring(queue, wanted)
    return rung
