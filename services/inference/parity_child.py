"""The check against the engine as a process: one frame in with the folders of the models that a run has made, and for
each of them one out with what was found, or why not.

`python -m services.inference.parity_child`, started by a training worker when its trainer has ended: services do not
import each other, and the engine's memory goes with its process. It ends when stdin closes, whatever it is at.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from services.inference.parity import compare
from shared.errors import HeliuError
from shared.frames import Frame, claim_stdout, end_with_worker, read_frames


def main() -> int:
    write = claim_stdout()
    asked = next(read_frames(sys.stdin.buffer), None)
    if asked is None:
        return 0
    end_with_worker()
    torch.set_num_threads(int(asked["threads"]))
    for model in asked["models"]:
        write(_compared(model))
    return 0


def _compared(model: dict[str, Any]) -> Frame:
    base = model["base"]
    try:
        found = compare(Path(model["folder"]), Path(base) if base else None, Path(model["samples"]))
    except HeliuError as exc:
        return {"type": "error", "code": exc.code, "message": exc.message, "param": exc.param}
    except (MemoryError, torch.OutOfMemoryError):
        return {"type": "error", "code": "out_of_memory", "message": "the engine does not fit into memory"}
    except Exception as exc:  # noqa: BLE001 - the process boundary: whatever it was, the worker must hear of it
        sys.excepthook(type(exc), exc, exc.__traceback__)
        message = f"the engine cannot run the model: {type(exc).__name__}: {exc}"
        return {"type": "error", "code": "parity_check_failed", "message": message}
    return {"type": "result", **found}


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # A plain exit aborts: the reading thread still holds stdin. All frames are flushed.
    os._exit(code)
