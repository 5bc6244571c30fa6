"""A run in as many processes as it asks for: in this one, or in several whose frames are handed on as this one's own.

Knows no training; the first of the processes speaks, and hears of stop requests.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

from services.training import world
from services.training.ranks.launcher import DIED, PROCESSES, SPEC, frames_of
from services.training.run import Result, Run, Stopped
from services.training.spec import Spec
from shared.child import Child, ChildGone
from shared.errors import HeliuError, InvalidInput
from shared.frames import Frame, read_frames

_RUNNERS = {"sft": "services.training.sft", "dpo": "services.training.dpo.run"}


def run(spec: Spec, run: Run) -> Result:
    """What the runner of `spec.kind` raises and returns; HeliuError `process_died` where one of several died."""
    if SPEC not in os.environ:
        # Whatever started the worker may have set what torchrun sets, and would not be the launcher of this run.
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
    processes = 1 if world.size() > 1 else _processes(spec)
    if processes == 1:
        result: Result = importlib.import_module(_RUNNERS[spec.kind]).run(spec, run)
        return result
    run.event(f"training in {processes} processes", data={"processes": processes})
    return _launch(spec, run, processes)


def _processes(spec: Spec) -> int:
    """As many as asked for, one for each GPU by themselves; a resumed run keeps its number, or takes an equal part."""
    wanted = spec.hyperparameters.get("processes", "auto")
    quantized = spec.hyperparameters.get("quantization", "none") != "none"
    if wanted == 1 or quantized:
        return 1
    import torch  # seconds that a run in one process spends anyway

    gpus = torch.cuda.device_count()
    if wanted in ("auto", None):
        before, batch = _before(spec), spec.hyperparameters.get("batch_size", "auto")
        batch = 0 if batch in ("auto", None) else int(batch)
        # Equal shares of a step, and of the steps of a run that is resumed.
        fits = (n for n in range(1, max(1, gpus) + 1) if batch % n == 0 and (before or 0) % n == 0)
        return max(n for n in fits if n <= (before or gpus or 1))
    if 0 < gpus < int(wanted):
        raise InvalidInput(
            f"processes is {wanted}, but this worker has {gpus} GPU{'s' if gpus > 1 else ''}, and each needs one",
            param="hyperparameters.processes",
        )
    return int(wanted)


def _before(spec: Spec) -> int | None:
    """In how many processes the checkpoint was written that the run is resumed from."""
    path = spec.resume_from / "plan.json" if spec.resume_from else None
    if path is None or not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8")).get("kept", {}).get("processes")
    return int(found) if found else None


def _launch(spec: Spec, run: Run, processes: int) -> Result:
    frame = spec.model_dump(mode="json") | {"threads": max(1, spec.threads // processes)}
    path = spec.workdir / "spec.json"
    path.write_text(json.dumps(frame), encoding="utf-8")
    child = Child(
        "services.training.ranks.launcher",
        environ={**os.environ, SPEC: str(path), PROCESSES: str(processes)},
    )
    failed: Frame | None = None
    ended: Frame | None = None
    asked: str | None = None
    try:
        child.send(frame)
        for heard in child.frames():
            if run.stop_reason != asked:
                asked = run.stop_reason
                child.send({"op": "stop", "reason": asked})
            if heard is None:
                continue
            if heard["type"] in ("result", "stopped"):
                # The others are at their end, too; they are waited for, so that none is left behind.
                ended = heard
            elif heard["type"] != "error":
                run.hand_on(heard)
            elif failed is None or heard["code"] == DIED:
                # The others fail, too, when one dies: the launcher knows which was the first.
                failed = heard
    except ChildGone as exc:
        raise _error({"code": DIED, "message": str(exc), "retryable": True}) from exc
    finally:
        child.close()
    if ended is not None and ended["type"] == "result":
        peaks = (ended["peak_memory_bytes"], *_other_peaks(path, processes))
        return Result(ended["output_dir"], ended["trained_tokens"], ended["data"], peaks, ended["libraries"])
    if ended is not None:
        raise Stopped(ended["reason"], ended["step"])
    raise _error(
        failed or {"code": DIED, "message": f"the launcher died: {child.how_it_ended()}", "retryable": True}
    )


def _other_peaks(spec: Path, processes: int) -> list[int]:
    """The most bytes of memory that each process but the first had; all have ended well."""
    found = []
    for rank in range(1, processes):
        with frames_of(spec, rank).open("rb") as said:
            found += [frame["peak_memory_bytes"] for frame in read_frames(said) if frame["type"] == "result"]
    return found


def _error(frame: dict[str, Any]) -> HeliuError:
    return HeliuError(
        frame["message"], code=frame["code"], param=frame.get("param"), retryable=frame["retryable"]
    )
