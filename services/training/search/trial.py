"""A trial as a search looks at it, and where it is on its way. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["open", "complete", "pruned", "failed", "cancelled"]
WAY = 100


@dataclass(frozen=True)
class Point:
    """What was told at a step of a run of `total` steps, as it was planned then."""

    step: int
    value: float
    total: int


@dataclass(frozen=True)
class Trial:
    """Number, parameters by path, and what is known so far. `notes` are what a pruner wrote down of it."""

    number: int
    params: Mapping[str, Any]
    state: State = "open"
    value: float | None = None
    curve: tuple[Point, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> Point | None:
        return self.curve[-1] if self.curve else None

    @property
    def worth(self) -> float | None:
        """Its value, or the last that was told of one that was given up."""
        if self.value is not None or self.last is None:
            return self.value
        return self.last.value


def progress_of(point: Point) -> int:
    """How far a run was, from 1 to WAY: runs of different lengths are compared at the same part of theirs."""
    return max(1, min(WAY, round(WAY * point.step / max(1, point.total))))


def along_the_way(trial: Trial) -> dict[int, float]:
    """Each part of the way -> what had been told last by then, from the first telling to where the trial is."""
    told: dict[int, float] = {}
    for point in sorted(trial.curve, key=lambda one: one.step):
        told[progress_of(point)] = point.value
    if not told:
        return {}
    end = WAY if trial.state == "complete" else max(told)
    values: dict[int, float] = {}
    current = told[min(told)]
    for part in range(min(told), end + 1):
        current = told.get(part, current)
        values[part] = current
    return values


def best_of(trials: Iterable[Trial], sign: int) -> Trial | None:
    """The complete trial of the best value, the earliest of equals; `sign` is 1 where larger is better."""
    done = [one for one in trials if one.state == "complete" and one.value is not None]
    return max(done, key=lambda one: (sign * (one.value or 0.0), -one.number), default=None)
