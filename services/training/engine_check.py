"""Holds models that a run has made against the engine, in the engine's own process. Knows no engine and no torch.

The process is inference's: services do not import each other, and one that is started by name needs no worker that
serves. It runs when the trainer has ended, so that the two never share a GPU's memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.training.supervise import Job
from shared.child import Child, ChildGone
from shared.errors import HeliuError
from shared.stop import ChildCrashed, Stop, Stopped

MODULE = "services.inference.parity_child"
PATIENT = (Stop.PAUSE, Stop.DRAIN, Stop.PREEMPT)


@dataclass(frozen=True)
class Served:
    """A model as it will be served: its folder, of an adapter that of its base too, and what the trainer computed."""

    folder: Path
    base: Path | None
    samples: Path


def check_engine(
    job: Job, models: Sequence[Served], *, threads: int, grace_s: float, module: str = MODULE
) -> list[dict[str, Any] | HeliuError]:
    """{"parity", "pinned"} of each model, or why it has none; `parity_check_failed` where engine and trainer differ.

    The first counts: where it fails, or where the process dies or is to stop behind it, the others are left out.
    Before that a pause, a drain or a preemption waits `grace_s`: to give up would be to train the last stretch again.
    Raises Stopped, or ChildCrashed.
    """
    child = Child(module)
    deadline: float | None = None
    found: list[dict[str, Any] | HeliuError] = []
    asked = [{name: str(path.absolute()) if path else None for name, path in vars(m).items()} for m in models]
    try:
        try:
            child.send({"models": asked, "threads": threads})
        except ChildGone as exc:
            raise ChildCrashed(str(exc)) from exc
        for frame in child.frames():
            if job.reason is not None:
                deadline = deadline or time.monotonic() + grace_s
                patient = job.reason in PATIENT
                if not patient or found or time.monotonic() >= deadline:
                    child.kill()
                    if found and patient:
                        return found
                    raise Stopped(job.reason)
            job.touch()
            if frame is None:
                continue
            found.append(_read(frame))
            if len(found) == len(models) or isinstance(found[0], HeliuError):
                return found
    finally:
        child.close()
    if found:
        return found
    raise ChildCrashed(f"the check against the engine died: {child.how_it_ended()}")


def _read(frame: dict[str, Any]) -> dict[str, Any] | HeliuError:
    if frame["type"] == "error":
        return HeliuError(frame["message"], code=frame["code"], param=frame.get("param"))
    return {"parity": frame["parity"], "pinned": frame["pinned"]}
