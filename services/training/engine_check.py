"""Holds a model that was just made against the engine, in the engine's own process. Knows no engine and no torch.

The process is inference's: services do not import each other, and one that is started by name needs no worker that
serves. It runs when the trainer has ended, so that the two never share a GPU's memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.training.supervise import Job
from shared.child import Child, ChildGone
from shared.errors import HeliuError
from shared.stop import ChildCrashed, Stopped

MODULE = "services.inference.parity_child"


def check_engine(
    job: Job, folder: Path, base: Path | None, samples: Path, *, threads: int, module: str = MODULE
) -> dict[str, Any]:
    """{"parity", "pinned"} of `folder`, an adapter where `base` is given.

    Raises HeliuError `parity_check_failed` where engine and trainer differ, Stopped, or ChildCrashed.
    """
    child = Child(module)
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
