"""A stand-in for the engine's child that speaks its frames and follows orders, the last message or the prompt.

"pause N ..." says N words and waits until there is a file `go` in HELIU_HOME before the rest; "differ ..." does so
after two words, and says another rest each time; "nul" says a NUL character, "fail CODE" fails so, "priority" says its
own; anything else is said back word by word. A request that is cancelled while it waits ends so.
"""

from __future__ import annotations

import secrets
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from shared.frames import Frame, FrameWriter, claim_stdout, read_frames

TIMINGS = {"queue_s": 0.0, "prefill_s": 0.001, "decode_s": 0.001, "first_token_s": 0.001}


def answer(request: Frame, home: Path, write: FrameWriter, cancelled: threading.Event) -> None:
    name = request["id"]
    order: Any = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
    words = order.split()
    if words[0] == "fail":
        error = {"code": words[1], "message": "refused by the engine", "param": "messages"}
        write({"type": "error", "id": name, "retryable": False, **error})
        return
    pause = {"pause": int(words[1]) if words[0] == "pause" else 0, "differ": 2}.get(words[0])
    if words[0] == "differ":
        words[-1] = secrets.token_hex(4)
        words.insert(1, secrets.token_hex(4))
    said = {"nul": ["a\x00b"], "priority": [request["priority"]]}.get(words[0], words)
    text, reason = "", "stop"
    for index, word in enumerate(said):
        while index == pause and not (home / "go").exists():
            if cancelled.wait(0.02):
                reason = "cancelled"
                break
        if reason == "cancelled":
            break
        piece = word if index == 0 else f" {word}"
        text += piece
        if request.get("stream", request["priority"] == "live"):
            write({"type": "token", "id": name, "text": piece, "tokens": 1})
    usage = {"prompt_tokens": 7, "completion_tokens": len(text.split()), "cached_tokens": 0}
    done = {"text": text, "finish_reason": reason, "usage": usage, "timings": TIMINGS, "spans": []}
    write({"type": "done", "id": name, **done})


def main() -> int:
    write, lock = claim_stdout(), threading.Lock()
    open_requests: dict[str, threading.Event] = {}
    home = Path()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(frame: Frame) -> None:
        with lock:
            write(frame)

    for frame in read_frames(sys.stdin.buffer):
        if frame["op"] == "configure":
            home = Path(frame["home"])
            tell({"type": "ready"})
        elif frame["op"] == "generate":
            cancelled = open_requests[frame["id"]] = threading.Event()
            threading.Thread(target=answer, args=(frame, home, tell, cancelled), daemon=True).start()
        elif frame["op"] == "cancel" and frame["id"] in open_requests:
            open_requests[frame["id"]].set()
    return 0


if __name__ == "__main__":
    sys.exit(main())
