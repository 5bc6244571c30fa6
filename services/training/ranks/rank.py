"""One of a run's processes: the first is an ordinary training child; the others say nothing and hear nothing.

`python -m services.training.ranks.rank`, started by torchrun's agent.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from services.training import child, world
from services.training.ranks.launcher import SPEC, frames_of, when_left
from shared.frames import write_frame


def main() -> None:
    if world.rank() > 0:
        _step_aside(Path(os.environ[SPEC]))
    child.main()


def _step_aside(spec: Path) -> None:
    """Give this process a stdin of its own with the spec in it, and a file for what it says.

    Its stdin ends when the one does that it shares with the first process.
    """
    shared = os.dup(0)
    read, write = os.pipe()
    when_left(shared, lambda: os.close(write))
    os.dup2(read, 0)
    said = os.open(frames_of(spec, world.rank()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(said, 1)
    frame = json.loads(spec.read_text(encoding="utf-8"))
    # A pipe holds less than a spec may have.
    threading.Thread(target=lambda: write_frame(os.fdopen(write, "wb", closefd=False), frame)).start()


if __name__ == "__main__":
    main()
