"""A trainer's process that is killed as soon as it has told of a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared.frames import Frame, read_frames, write_frame


def kill_after_a_checkpoint(spec: dict[str, Any]) -> tuple[Path, list[Frame]]:
    """(the last whole checkpoint that it told of, all its frames); it died by SIGKILL before its result."""
    seen: list[Frame] = []
    with subprocess.Popen(
        [sys.executable, "-m", "services.training.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            write_frame(child.stdin, spec)
            for frame in read_frames(child.stdout):
                seen.append(frame)
                if frame["type"] == "checkpoint":
                    os.kill(child.pid, signal.SIGKILL)
                    break
            seen += read_frames(child.stdout)
            assert child.wait() == -signal.SIGKILL
        finally:
            child.kill()
    assert not any(frame["type"] == "result" for frame in seen)
    return Path([f for f in seen if f["type"] == "checkpoint"][-1]["path"]), seen
