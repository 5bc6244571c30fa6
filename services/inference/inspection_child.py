"""The check of a model as a process: one frame with the folder in, one with what it is, or why not, out.

`python -m services.inference.inspection_child`. It ends when stdin closes, whatever it is at.
"""

from __future__ import annotations

import os
import sys

import torch

from services.inference.inspection import inspect
from shared.errors import HeliuError
from shared.frames import claim_stdout, end_with_worker, read_frames


def main() -> int:
    write = claim_stdout()
    asked = next(read_frames(sys.stdin.buffer), None)
    if asked is None:
        return 0
    end_with_worker()
    if asked.get("threads"):
        torch.set_num_threads(int(asked["threads"]))
    try:
        found = inspect(asked["folder"], kind=asked["kind"], base=asked["base"])
        write({"type": "result", **found})
    except HeliuError as exc:
        write({"type": "error", "code": exc.code, "message": exc.message, "param": exc.param})
    except MemoryError:
        write({"type": "error", "code": "out_of_memory", "message": "the model does not fit into memory"})
    except Exception as exc:  # noqa: BLE001 - whatever a forged folder makes a library raise is the folder's fault
        sys.excepthook(type(exc), exc, exc.__traceback__)
        message = f"the model cannot be checked: {type(exc).__name__}: {exc}"
        write({"type": "error", "code": "model_unreadable", "message": message})
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # A plain exit aborts: the reading thread still holds stdin. All frames are flushed.
    os._exit(code)
