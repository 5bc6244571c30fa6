"""The check against the engine as a process: one frame with the folders in, one with what was found, or why not, out.

`python -m services.inference.parity_child`, started by a training worker when its trainer has ended: services do not
import each other, and the engine's memory goes with its process. It ends when stdin closes, whatever it is at.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from services.inference.parity import compare
from shared.errors import HeliuError
from shared.frames import claim_stdout, end_with_worker, read_frames


def main() -> int:
    write = claim_stdout()
    asked = next(read_frames(sys.stdin.buffer), None)
    if asked is None:
        return 0
    end_with_worker()
    torch.set_num_threads(int(asked["threads"]))
    base = asked["base"]
    try:
        found = compare(Path(asked["folder"]), Path(base) if base else None, Path(asked["samples"]))
        write({"type": "result", **found})
    except HeliuError as exc:
        write({"type": "error", "code": exc.code, "message": exc.message, "param": exc.param})
    except (MemoryError, torch.OutOfMemoryError):
        write({"type": "error", "code": "out_of_memory", "message": "the engine does not fit into memory"})
    except Exception as exc:  # noqa: BLE001 - the process boundary: whatever it was, the worker must hear of it
        sys.excepthook(type(exc), exc, exc.__traceback__)
        message = f"the engine cannot run the model: {type(exc).__name__}: {exc}"
        write({"type": "error", "code": "parity_check_failed", "message": message})
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # A plain exit aborts: the reading thread still holds stdin. All frames are flushed.
    os._exit(code)
