"""What a run tells its worker (frames) and what the worker may ask of it (to stop). Knows no pipe and no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shared.errors import HeliuError

Emit = Callable[[dict[str, Any]], None]
STOP_REASONS = ("pause", "cancel", "drain", "preempt")


@dataclass(frozen=True)
class Result:
    """A finished run: the folder it made, the tokens it learned from, and what is worth telling.

    `peaks` are the most bytes of memory that each process had, and `libraries` their versions, of a run that was not
    computed in this process.
    """

    output_dir: str
    trained_tokens: int
    data: dict[str, Any] = field(default_factory=dict)
    peaks: tuple[int, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)


class Stopped(Exception):
    """The run ended at a step boundary because it was asked to."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(f"stopped at step {step}: {reason}")
        self.reason = reason
        self.step = step


class Run:
    """Frames out through `emit`; a stop request in, from any thread or a signal handler."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._stop: str | None = None

    @property
    def stop_reason(self) -> str | None:
        return self._stop

    def request_stop(self, reason: str) -> None:
        """The first request counts, except that a cancel outweighs the others. Unknown reasons are refused."""
        if reason not in STOP_REASONS:
            raise HeliuError(f"unknown stop reason {reason!r}; known are {', '.join(STOP_REASONS)}")
        if self._stop is None or reason == "cancel":
            self._stop = reason

    def hand_on(self, frame: Mapping[str, Any]) -> None:
        """A frame of this run that another process has made."""
        self._emit(dict(frame))

    def event(self, message: str, level: str = "info", data: Mapping[str, Any] | None = None) -> None:
        frame: dict[str, Any] = {"type": "event", "level": level, "message": message}
        self._emit(frame | ({"data": dict(data)} if data else {}))

    def metrics(self, step: int, data: Mapping[str, float]) -> None:
        """Raises HeliuError `training_diverged` when a value is not finite: nothing after it would be worth having."""
        for name, value in data.items():
            if not math.isfinite(value):
                raise HeliuError(
                    f"{name} is {value} at step {step}; a lower learning rate usually mends this",
                    code="training_diverged",
                    param="hyperparameters.learning_rate",
                )
        self._emit({"type": "metrics", "step": step, "data": dict(data)})

    def progress(self, step: int, total_steps: int) -> None:
        self._emit({"type": "progress", "step": step, "total_steps": total_steps, "at_ns": time.time_ns()})

    def checkpoint(self, step: int, path: str, manifest_sha256: str, metrics: Mapping[str, float]) -> None:
        self._emit(
            {
                "type": "checkpoint",
                "step": step,
                "path": path,
                "manifest_sha256": manifest_sha256,
                "metrics": dict(metrics),
            }
        )

    def span(self, name: str, start_ns: int, attributes: Mapping[str, Any]) -> None:
        """A span that began at `start_ns` (Unix time) and ends now."""
        self._emit(
            {
                "type": "span",
                "name": name,
                "start_ns": start_ns,
                "end_ns": time.time_ns(),
                "attributes": dict(attributes),
            }
        )

    @contextmanager
    def timed(self, name: str, **attributes: Any) -> Iterator[dict[str, Any]]:
        """Span over a block; the block may add attributes to the dict it is given."""
        start = time.time_ns()
        try:
            yield attributes
        finally:
            self.span(name, start, attributes)
