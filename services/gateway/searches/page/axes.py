"""Where values lie on a plot: an axis from data to places, with the marks that it is read by. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MARKS = 6
FAR = 4.0


@dataclass(frozen=True)
class Mark:
    """A place on an axis and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """From `low` at the place `start` to `high` at `end`; what lies outside is put at the border."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    names: tuple[str, ...] = ()

    def place(self, value: float) -> float:
        low, high, wanted = self.low, self.high, value
        if self.log:
            low, high, wanted = math.log(low), math.log(high), math.log(max(value, self.low))
        share = 0.5 if high == low else (wanted - low) / (high - low)
        return round(self.start + max(0.0, min(1.0, share)) * (self.end - self.start), 1)

    @property
    def marks(self) -> list[Mark]:
        if self.names:
            return [Mark(self.place(i), name) for i, name in enumerate(self.names)]
        return [Mark(self.place(value), short(value)) for value in self._round_values()]

    def _round_values(self) -> list[float]:
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            every = max(1, (last - first) // MARKS)
            powers = [10.0**n for n in range(first, last + 1, every)]
            inside = [one for one in powers if self.low <= one <= self.high]
            return inside if len(inside) > 1 else [self.low, self.high]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        rough = span / MARKS
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * n for n in (1, 2, 5, 10) if size * n >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def around(values: Sequence[float], start: float, end: float, *, sign: int = 0) -> Axis:
    """An axis over the values with a little room.

    With a `sign` (1: larger is better) it ends where a value is FAR times as far from the best as the median is: one
    run that went astray does not flatten all others.
    """
    ordered = sorted(values) or [0.0, 1.0]
    low, high, median = ordered[0], ordered[-1], ordered[len(ordered) // 2]
    if sign < 0 < median - low:
        high = min(high, low + FAR * (median - low))
    elif sign > 0 and median < high:
        low = max(low, high - FAR * (high - median))
    room = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    return Axis(low - room, high + room, start, end)


def of_range(varies: dict[str, Any], start: float, end: float) -> Axis:
    """The axis of a parameter; choices stand side by side."""
    if varies["type"] == "categorical":
        names = tuple(name(one) for one in varies["choices"])
        return Axis(-0.5, len(names) - 0.5, start, end, names=names)
    return Axis(float(varies["low"]), float(varies["high"]), start, end, log=bool(varies["log"]))


def short(value: float) -> str:
    """A number of a few digits."""
    return f"{value:.4g}"


def name(value: Any) -> str:
    """A parameter's value in a few characters."""
    text = short(value) if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:23] + "…"
