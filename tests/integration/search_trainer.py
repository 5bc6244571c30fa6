"""A trainer without a model: its loss falls to what the learning rate deserves, at the pace that a file sets.

`hyperparameters.batch_size` 13 dies of its data, and 17 diverges; a rate of 1 comes to no end by itself. While the file
`hold` in the platform's home names a step, none after it is done, so that a test may look, pause and kill.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from shared.frames import Frame, claim_stdout, read_frames

STEPS = 10
SAVED_AT = 3
ENDLESS_AT = 7
asked: list[str] = []


def main() -> None:
    write = claim_stdout()
    frames = read_frames(sys.stdin.buffer)
    spec = next(frames)
    threading.Thread(target=listen, args=(frames,), daemon=True).start()
    wanted, work = spec["hyperparameters"], Path(spec["workdir"])
    hold = work.parents[2] / "hold"
    if wanted.get("batch_size") == 13:
        fault = {"code": "invalid_training_file", "message": "13 rows are bad luck", "param": "training_file"}
        write({"type": "error", **fault, "retryable": False})
        return
    done = 0
    if spec["resume_from"]:
        done = json.loads((Path(spec["resume_from"]) / "state.json").read_bytes())["step"]
    endless = wanted["learning_rate"] == 1.0
    distance = abs(math.log10(wanted["learning_rate"]) + 2)
    for step in range(done + 1, STEPS + 1):
        while (is_held(hold, step) or (endless and step > ENDLESS_AT)) and not asked:
            time.sleep(0.01)
        if asked:
            if asked[0] != "cancel":
                save(write, work, step - 1)
            write({"type": "stopped", "reason": asked[0], "step": step - 1})
            return
        if wanted.get("batch_size") == 17 and step == 2:
            fault = {"code": "training_diverged", "message": f"train_loss is nan at step {step}"}
            write({"type": "error", **fault, "param": "hyperparameters.learning_rate", "retryable": False})
            return
        time.sleep(0.02)
        write(
            {
                "type": "metrics",
                "step": step,
                "data": {"train_loss": 1.0, "valid_loss": distance + 1 / step, "total_steps": STEPS},
            }
        )
        if step == SAVED_AT:
            save(write, work, step)
    output = Path(spec["output_dir"])
    output.mkdir(parents=True)
    (output / "model.json").write_text(json.dumps({"learning_rate": wanted["learning_rate"]}))
    write(
        {
            "type": "result",
            "output_dir": str(output),
            "trained_tokens": 7,
            "data": {"valid_loss": distance + 1 / STEPS, "steps": STEPS},
        }
    )


def is_held(hold: Path, step: int) -> bool:
    try:
        return step > int(hold.read_text())
    except FileNotFoundError:
        return False


def save(write: object, work: Path, step: int) -> None:
    folder = work / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"step": step}))
    assert callable(write)
    write({"type": "checkpoint", "step": step, "path": str(folder), "manifest_sha256": "0", "metrics": {}})


def listen(frames: Iterator[Frame]) -> None:
    for frame in frames:
        asked.append(str(frame["reason"]))


if __name__ == "__main__":
    main()
    # The listening thread sits in a read that would hold up the interpreter's shutdown.
    os._exit(0)
