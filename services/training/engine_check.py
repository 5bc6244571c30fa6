"""Holds a model that was just made against the engine, in the engine's own process. Knows no engine and no torch.

The process is inference's: services do not import each other, and one that is started by name needs no worker that
serves. It runs when the trainer has ended, so that the two never share a GPU's memory.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from services.training.supervise import Job
from shared.child import Child, ChildGone
from shared.errors import HeliuError
from shared.stop import ChildCrashed, Stop, Stopped

MODULE = "services.inference.parity_child"
PATIENT = (Stop.PAUSE, Stop.DRAIN, Stop.PREEMPT)


def check_engine(
    job: Job,
    folder: Path,
    base: Path | None,
    samples: Path,
    *,
    threads: int,
    grace_s: float,
    module: str = MODULE,
) -> dict[str, Any]:
    """{"parity", "pinned"} of `folder`, an adapter where `base` is given.

    A pause, a drain or a preemption waits `grace_s`: to give up here would be to train the last stretch again.
    Raises HeliuError `parity_check_failed` where engine and trainer differ, Stopped, or ChildCrashed.
    """
    child = Child(module)
    deadline: float | None = None
    try:
        try:
            child.send(
                {
                    "folder": str(folder.absolute()),
                    "base": str(base.absolute()) if base is not None else None,
                    "samples": str(samples.absolute()),
                    "threads": threads,
                }
            )
        except ChildGone as exc:
            raise ChildCrashed(str(exc)) from exc
        for frame in child.frames():
            if job.reason is not None:
                deadline = deadline or time.monotonic() + grace_s
                if job.reason not in PATIENT or time.monotonic() >= deadline:
                    child.kill()
                    raise Stopped(job.reason)
            job.touch()
            if frame is None:
                continue
            if frame["type"] == "error":
                raise HeliuError(frame["message"], code=frame["code"], param=frame.get("param"))
            return {"parity": frame["parity"], "pinned": frame["pinned"]}
    finally:
        child.close()
    raise ChildCrashed(f"the check against the engine died: {child.how_it_ended()}")
