"""Tells a worker that has gone deaf from one that is idle. Pure: knows no queue, no clock and no process.

What counts is how long work has been waiting while this worker could have taken it, look after look; a worker that
was idle for hours is not late for the job that came in this moment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

KNOCK_S = 30.0
DEAF_S = 60.0


class Verdict(StrEnum):
    """What to do about a queue: claim without a doorbell, or end the process so that it is started anew."""

    KNOCK = "knock"
    DEAF = "deaf"


@dataclass(frozen=True)
class Look:
    """What a worker sees at one moment; times are of one monotonic clock.

    `claimable`: queues with a job that the claim would take and a free place here for it. `in_line`: queues whose
    messages wait while a thread is free to take one. `claimed_at`, `heard_at`: when it last did.
    """

    at: float
    claimable: Collection[str]
    claimed_at: Mapping[str, float]
    in_line: Collection[str]
    heard_at: float


class Watchdog:
    """Judges one worker by its looks, which come every few seconds."""

    def __init__(self, *, knock_s: float = KNOCK_S, deaf_s: float = DEAF_S) -> None:
        self._knock_s = knock_s
        self._deaf_s = deaf_s
        self._claimable_since: dict[str, float] = {}
        self._in_line_since: dict[str, float] = {}

    def judge(self, look: Look) -> dict[str, Verdict]:
        """The queues that something must be done about."""
        self._claimable_since = _since(self._claimable_since, look.claimable, look.at)
        self._in_line_since = _since(self._in_line_since, look.in_line, look.at)
        verdicts: dict[str, Verdict] = {}
        for queue, since in self._claimable_since.items():
            waited = look.at - max(since, look.claimed_at.get(queue, since))
            if waited >= self._deaf_s:
                verdicts[queue] = Verdict.DEAF
            elif waited >= self._knock_s:
                verdicts[queue] = Verdict.KNOCK
        for queue, since in self._in_line_since.items():
            # Jobs that were claimed by a knock do not show that doorbells and live requests are heard.
            if look.at - max(since, look.heard_at) >= self._deaf_s:
                verdicts[queue] = Verdict.DEAF
        return verdicts


def _since(known: Mapping[str, float], there: Collection[str], now: float) -> dict[str, float]:
    """Since when each of `there` has been there at every look."""
    return {name: known.get(name, now) for name in there}
