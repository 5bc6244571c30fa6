"""A stand-in for the engine's child that speaks its frames and answers at once: for runs about queues, not models.

The answer to `text` is `echo(text)`. `die` kills the process, as an out-of-memory kill would. An answer that is
read as it grows comes in two tokens.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from shared.frames import Frame, FrameWriter, claim_stdout, read_frames

ROW_S = 0.002
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 0}
TIMINGS = {"queue_s": 0.0, "prefill_s": 0.001, "decode_s": 0.001, "first_token_s": 0.001}


def echo(text: str) -> str:
    """What the engine answers: told by the input alone, so that a row of another input is noticed."""
    return f"{text[::-1]}!"


def answer(request: Frame, write: FrameWriter) -> None:
    text: Any = request["messages"][-1]["content"]
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(ROW_S)
    said = echo(text)
    if request.get("stream", request["priority"] == "live"):
        half = len(said) // 2
        for index, part in enumerate((said[:half], said[half:])):
            write({"type": "token", "id": request["id"], "text": part, "tokens": 1, "index": index})
    done = {"text": said, "finish_reason": "stop", "usage": USAGE, "timings": TIMINGS, "spans": []}
    write({"type": "done", "id": request["id"], **done})


def main() -> int:
    write = claim_stdout()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for frame in read_frames(sys.stdin.buffer):
            if frame["op"] == "configure":
                write({"type": "ready"})
            elif frame["op"] == "generate":
                answer(frame, write)
    except BrokenPipeError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
