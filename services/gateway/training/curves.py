"""Curves of a run's metrics with no more points than a plot has: peaks and dips stay. Pure; knows no SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shared.job_metrics import StepMetrics

# A curve is thinned as it is read once it has so many times the points that are asked for.
_ROOM = 8


@dataclass(frozen=True, slots=True)
class Point:
    """`at` is unix seconds."""

    step: int
    value: float
    at: float


@dataclass
class Curve:
    """One metric: `count` values were told, of which `points` are kept."""

    count: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    points: list[Point] = field(default_factory=list)


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` (4 or more) of the points in their order: the first, the last, and of each span between them the
    lowest and the highest."""
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    spans = (most - 2) // 2
    kept = [points[0]]
    for number in range(spans):
        span = inner[number * len(inner) // spans : (number + 1) * len(inner) // spans]
        ends = {min(span, key=lambda p: p.value), max(span, key=lambda p: p.value)}
        kept += sorted(ends, key=lambda p: p.step)
    return [*kept, points[-1]]


def curves(
    told: Iterable[StepMetrics], most: int, names: frozenset[str] | None = None
) -> tuple[dict[str, Curve], int | None]:
    """(a curve a metric, by name; the last step that was told of). `names` chooses metrics; none is all of them.

    Memory is bounded by `most`, whatever the length of the run.
    """
    found: dict[str, Curve] = {}
    last: int | None = None
    for one in told:
        last = one.step
        for name, value in one.values.items():
            if names is not None and name not in names:
                continue
            curve = found.setdefault(name, Curve())
            curve.count += 1
            curve.low, curve.high = min(curve.low, value), max(curve.high, value)
            curve.points.append(Point(one.step, value, one.at.timestamp()))
            if len(curve.points) > most * _ROOM:
                curve.points = thin(curve.points, most * _ROOM // 2)
    for curve in found.values():
        curve.points = thin(curve.points, most)
    return dict(sorted(found.items())), last
