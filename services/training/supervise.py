"""Runs one training child: feeds it its spec, hands its frames on, and stops it the way the job is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shared.child import Child, ChildGone
from shared.errors import HeliuError
from shared.frames import Frame
from shared.stop import ChildCrashed, Stop, Stopped


class Job(Protocol):
    """What supervision needs of a job's context."""

    @property
    def reason(self) -> Stop | None: ...

    def touch(self) -> None: ...


@dataclass(frozen=True)
class Sink:
    """Where the child's frames go."""

    event: Callable[[str, str, dict[str, Any] | None], None]
    metrics: Callable[[int, dict[str, Any]], None]
    checkpoint: Callable[[int, Path, dict[str, Any]], None]
    span: Callable[[str, int, int, dict[str, Any]], None]
    # Step, total, and when the child told it, in unix seconds.
    progress: Callable[[int, int, float], None]
    touch: Callable[[], None]


def supervise(
    job: Job, spec: Frame, sink: Sink, *, grace_s: float, module: str = "services.training.child"
) -> Frame:
    """Returns the child's result frame. Raises Stopped, ChildCrashed, or the child's typed error.

    A cancel, pause, drain or preemption is passed on and given `grace_s` to reach a checkpoint; a lost lease kills at
    once.
    """
    child = Child(module)
    killed: Stop | None = None
    deadline: float | None = None
    try:
        try:
            child.send(spec)
        except ChildGone as exc:
            raise ChildCrashed(str(exc)) from exc
        for frame in child.frames():
            if job.reason is not None and killed is None:
                if deadline is None:
                    asked = _ask(child, job.reason)
                    deadline = time.monotonic() + (grace_s if asked else 0.0)
                    if asked:
                        sink.event("info", f"asked to stop at its next step: {job.reason.value}", None)
                if job.reason is Stop.LOST or time.monotonic() >= deadline:
                    killed = job.reason
                    child.kill()
            if frame is None:
                continue
            sink.touch()
            kind = frame["type"]
            if kind == "result":
                return frame
            if kind == "error":
                raise HeliuError(
                    frame["message"],
                    code=frame["code"],
                    param=frame.get("param"),
                    retryable=frame["retryable"],
                )
            if kind == "stopped":
                raise Stopped(job.reason or Stop(frame["reason"]))
            _hand_on(frame, sink)
    finally:
        child.close()
    if killed is not None:
        raise Stopped(killed)
    raise ChildCrashed(f"the trainer died: {child.how_it_ended()}")


def _ask(child: Child, reason: Stop) -> bool:
    """Ask the child to stop at its next step; False where it shall not be waited for."""
    if reason not in (Stop.CANCEL, Stop.PAUSE, Stop.DRAIN, Stop.PREEMPT):
        return False
    try:
        child.send({"op": "stop", "reason": reason.value})
    except ChildGone:
        return False
    return True


def _hand_on(frame: Frame, sink: Sink) -> None:
    kind = frame["type"]
    if kind == "event":
        sink.event(frame["level"], frame["message"], frame.get("data"))
    elif kind == "progress":
        sink.progress(frame["step"], frame["total_steps"], frame["at_ns"] / 1e9)
    elif kind == "metrics":
        sink.metrics(frame["step"], frame["data"])
    elif kind == "checkpoint":
        sink.checkpoint(frame["step"], Path(frame["path"]), frame["metrics"])
    elif kind == "span":
        sink.span(frame["name"], frame["start_ns"], frame["end_ns"], frame.get("attributes", {}))
    else:
        raise HeliuError(f"the trainer sent a frame of unknown type {kind!r}", code="internal_error")
