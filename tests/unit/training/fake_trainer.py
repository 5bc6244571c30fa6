"""A child that speaks the trainer's frames and does as its spec's `act` says. For supervision tests."""

from __future__ import annotations

import os
import signal
import sys

from shared.frames import claim_stdout, read_frames


def main() -> None:
    write = claim_stdout()
    frames = read_frames(sys.stdin.buffer)
    spec = next(frames)
    write({"type": "metrics", "step": 1, "data": {"train_loss": 2.0, "total_steps": 9}})
    act = spec["act"]
    if act == "finish":
        write({"type": "progress", "step": 1, "total_steps": 9, "at_ns": 12_500_000_000})
        write({"type": "event", "level": "info", "message": "almost"})
        write(
            {
                "type": "checkpoint",
                "step": 1,
                "path": "/checkpoint",
                "manifest_sha256": "0",
                "metrics": {"a": 1},
            }
        )
        write({"type": "span", "name": "load", "start_ns": 1, "end_ns": 2, "attributes": {}})
        write({"type": "result", "output_dir": "/out", "trained_tokens": 7, "data": {}})
    elif act == "fail":
        error = {"code": "invalid_training_file", "message": "line 3", "param": "training_file"}
        write({"type": "error", **error, "retryable": False})
    elif act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    else:  # obey or ignore
        for frame in frames:
            if act == "obey":
                write({"type": "stopped", "reason": frame["reason"], "step": 2})
                return


if __name__ == "__main__":
    main()
