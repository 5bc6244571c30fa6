"""A child that speaks the engine's frames: echoes, fails or dies as the prompt says. For engine-process tests."""

from __future__ import annotations

import os
import signal
import sys

from shared.frames import claim_stdout, read_frames

USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0}
TIMINGS = {"queue_s": 0.0, "prefill_s": 0.1, "decode_s": 0.2, "first_token_s": 0.1}
VECTOR = {
    "vector": "AACAPwAAAMA=",
    "usage": {"prompt_tokens": 3},
    "timings": {"queue_s": 0.5, "compute_s": 0.25},
    "spans": [],
}


def main() -> None:
    write = claim_stdout()
    held: dict[str, str] = {}
    for frame in read_frames(sys.stdin.buffer):
        if frame["op"] == "configure" and frame.get("device") == "cuda":
            error = {"code": "configuration", "message": "torch sees no GPU here", "param": "device"}
            write({"type": "error", "id": None, **error, "retryable": False})
        elif frame["op"] == "configure":
            write({"type": "ready"})
        elif frame["op"] == "cancel" and frame["id"] in held:
            text = held.pop(frame["id"])
            write(_done(frame["id"], text, "cancelled"))
        elif frame["op"] == "embed":
            if frame["prompt"] == "long":
                error = {"code": "context_length_exceeded", "message": "too long", "param": "prompt"}
                write({"type": "error", "id": frame["id"], **error, "retryable": False})
            else:
                write({"type": "done", "id": frame["id"], **VECTOR})
        elif frame["op"] == "generate":
            text = frame["messages"][-1]["content"]
            if text == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if text == "hold":
                held[frame["id"]] = text
            elif text == "refuse":
                error = {"code": "context_length_exceeded", "message": "too long", "param": "messages"}
                write({"type": "error", "id": frame["id"], **error, "retryable": False})
            else:
                write({"type": "token", "id": frame["id"], "text": text, "tokens": 1, "index": 0})
                write(_done(frame["id"], text, "stop"))


def _done(request: str, text: str, reason: str) -> dict[str, object]:
    return {
        "type": "done",
        "id": request,
        "text": text,
        "finish_reason": reason,
        "usage": USAGE,
        "timings": TIMINGS,
    }


if __name__ == "__main__":
    main()
