"""How fast a run goes and when it will end, from the steps that it told and the times in between. Pure arithmetic."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Looks at the speed of this many tellings: a run tells about fifty times, and its neighbours come and go.
WINDOW = 10
# What interrupts the steps; an `epoch` lasts through them.
INTERRUPTS = frozenset({"eval", "checkpoint"})


@dataclass(frozen=True)
class Look:
    """A run at its last telling: seconds a step takes by itself and with its share of checks and saves; unix time of
    the end, when all is stored."""

    step_seconds: float
    whole_step_seconds: float
    finish: float


@dataclass
class Pace:
    """Fed with every telling of a step and every check or save, in their order; times are unix seconds."""

    _told: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW + 1))
    _first: tuple[int, float] | None = None
    _last: tuple[int, int, float] | None = None
    _interrupted: float = 0.0
    _saves: list[float] = field(default_factory=list)
    # Seconds behind the last step, where somebody knows of some: figures, save, the check against the engine.
    behind: float | None = None

    def step(self, step: int, total: int, at: float) -> None:
        """`step` of `total` are done at `at`."""
        if self._first is None:
            self._first, self._interrupted = (step, at), 0.0
        self._told.append((step, at - self._interrupted))
        self._last = (step, total, at)

    def interrupt(self, name: str, seconds: float) -> None:
        """A check on held-out rows or a save took `seconds` of the time between two steps."""
        if name not in INTERRUPTS:
            return
        self._interrupted += seconds
        if name == "checkpoint":
            self._saves.append(seconds)

    @property
    def steps(self) -> int:
        """How many steps were taken, as far as they were told of one by one."""
        return self._last[0] - self._first[0] if self._first and self._last else 0

    @property
    def mean_step_seconds(self) -> float | None:
        """Over all steps, checks and saves counted in."""
        if self._first is None or self._last is None or not self.steps:
            return None
        return (self._last[2] - self._first[1]) / self.steps

    def since_last(self, now: float) -> float:
        """Seconds since the last telling."""
        return max(0.0, now - self._last[2]) if self._last else 0.0

    def look(self) -> Look | None:
        """None until two different steps were told.

        Left are the steps at the speed of the last ones, their share of checks and saves as it was so far, and what is
        `behind` them, or at least a save like the others.
        """
        if self._first is None or self._last is None:
            return None
        (first, clock), (newest, now) = self._told[0], self._told[-1]
        done = newest - self._first[0]
        if newest <= first or now <= clock:
            return None
        step, total, at = self._last
        each = (now - clock) / (newest - first)
        whole = each + self._interrupted / done
        last_save = sum(self._saves) / len(self._saves) if self._saves else 0.0
        behind = last_save if self.behind is None else self.behind
        return Look(each, whole, at + max(0, total - step) * whole + behind)
