"""The engine as a process: frames from the worker on stdin, frames with its events on stdout.

`python -m services.inference.child`; `shared/frames.py` has the framing. Knows no queue and no worker; it ends at
once when stdin closes or its parent is gone, and after `drain` when all is finished.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import BinaryIO

import torch

from services.inference.lean import leave_out

if __name__ == "__main__" and not torch.cuda.is_available():
    # Before the imports below, of whose time it saves two fifths. On a GPU, where it has not been tried, kernels are
    # compiled, and two seconds are little beside the loading of what runs there.
    leave_out()

from services.inference.aside import Aside, Detokenize, Tokenize
from services.inference.engine.accelerator import describe, settled
from services.inference.engine.engine import Engine
from services.inference.engine.events import Embedded, Event, Failed, Finished, Loaded, Scored, TokenDelta
from services.inference.engine.request import EngineConfig
from services.inference.wire import (
    CONFIGURE,
    OPERATION,
    AskStats,
    Cancel,
    Drain,
    Embed,
    Generate,
    Operation,
    Score,
    done_frame,
    error_frame,
    logprobs_frame,
    parse,
    plain,
    score_frame,
    to_request,
    to_score_request,
    to_vector_request,
    vector_frame,
)
from shared.errors import ConfigurationError, HeliuError, InvalidInput
from shared.frames import Frame, FrameError, claim_stdout, read_frames

# Text of one request leaves at most this often; the first of it at once.
WINDOW_S = 0.02
# How often deadlines are looked at while only a load is under way, and the parent at any time.
_IDLE_POLL_S = 0.05
_PARENT_POLL_S = 1.0
_ENGINE_BROKEN = 70


class Child:
    """Feeds one engine and writes what comes of it; `handle` and `turn` belong to one thread."""

    def __init__(self, engine: Engine, write: Callable[[Frame], None], clock: Callable[[], float]) -> None:
        """`write` is called from two threads."""
        self._engine = engine
        self._write = write
        self._clock = clock
        self._aside = Aside(engine.config.kv_capacity, write, error_frame)
        self._active: set[str] = set()
        self._held: dict[str, Frame] = {}
        self._sent: dict[str, float] = {}
        self._token_by_token: set[str] = set()

    @property
    def done(self) -> bool:
        return self._engine.drained

    @property
    def patience(self) -> float | None:
        """Seconds to wait for a frame before the next turn; None is as long as it takes."""
        if self._engine.runnable:
            return 0.0
        if self._held:
            return WINDOW_S
        return _IDLE_POLL_S if self._engine.has_work else None

    def handle(self, frame: Frame) -> None:
        """Obey one frame; whatever is wrong with it is answered with an error frame."""
        try:
            self._obey(parse(OPERATION, frame))
        except HeliuError as error:
            self._write(error_frame(error, _frame_id(frame)))

    def turn(self) -> None:
        """One step of the engine, and the frames that it is time for."""
        for event in self._engine.step():
            self._take(event)
        now = self._clock()
        for request_id in [key for key in self._held if now - self._sent.get(key, 0.0) >= WINDOW_S]:
            self._flush(request_id, now)

    def close(self) -> None:
        """Finish what is done beside the engine."""
        self._aside.close()

    def fail_all(self, error: HeliuError) -> None:
        for request_id in sorted(self._active):
            self._write(error_frame(error, request_id))

    def _obey(self, message: Operation) -> None:
        if isinstance(message, Generate):
            self._engine.add(to_request(message))
            self._active.add(message.id)
            if message.token_by_token:
                self._token_by_token.add(message.id)
        elif isinstance(message, Embed):
            self._engine.add(to_vector_request(message))
            self._active.add(message.id)
        elif isinstance(message, Score):
            self._engine.add(to_score_request(message))
            self._active.add(message.id)
        elif isinstance(message, Tokenize | Detokenize):
            self._aside.take(message)
        elif isinstance(message, Cancel):
            self._engine.cancel(message.id)
        elif isinstance(message, Drain):
            self._engine.drain()
        elif isinstance(message, AskStats):
            self._write({"type": "stats", **asdict(self._engine.stats())})
        elif message.base_id is not None and message.adapter_id is None:
            self._engine.unload_base(message.base_id)
        elif message.adapter_id is not None and message.base_id is None:
            self._engine.unload_adapter(message.adapter_id)
        else:
            raise InvalidInput("give exactly one of base_id and adapter_id", param="base_id")

    def _take(self, event: Event) -> None:
        if isinstance(event, TokenDelta):
            self._hold(event)
        elif isinstance(event, Finished):
            self._close(event.request_id)
            self._write(done_frame(event))
        elif isinstance(event, Embedded):
            self._close(event.request_id)
            self._write(vector_frame(event))
        elif isinstance(event, Scored):
            self._close(event.request_id)
            self._write(score_frame(event))
        elif isinstance(event, Failed):
            self._close(event.request_id)
            error = HeliuError(event.message, code=event.code, param=event.param, retryable=event.retryable)
            self._write(error_frame(error, event.request_id))
        elif isinstance(event, Loaded):
            self._write({"type": "loaded", f"{event.kind}_id": event.id, "seconds": event.seconds})

    def _hold(self, delta: TokenDelta) -> None:
        held = self._held.get(delta.request_id)
        if held is None:
            held = {"type": "token", "id": delta.request_id, "text": "", "tokens": 0, "index": delta.index}
            self._held[delta.request_id] = held
        held["text"] += delta.text
        held["tokens"] += delta.tokens
        if delta.logprobs:
            held.setdefault("logprobs", []).extend(logprobs_frame(delta.logprobs))
        if delta.tool_calls:
            held.setdefault("tool_calls", []).extend(asdict(call) for call in delta.tool_calls)
        if delta.request_id in self._token_by_token:
            self._flush(delta.request_id, self._clock())

    def _flush(self, request_id: str, now: float) -> None:
        held = self._held.pop(request_id, None)
        if held is not None:
            self._write(held)
            self._sent[request_id] = now

    def _close(self, request_id: str) -> None:
        self._flush(request_id, self._clock())
        self._sent.pop(request_id, None)
        self._active.discard(request_id)
        self._token_by_token.discard(request_id)


def _frame_id(frame: Frame) -> str | None:
    found = frame.get("id")
    return plain(found) if isinstance(found, str) else None


def read_into(inbox: SimpleQueue[Frame | InvalidInput | None], stream: BinaryIO) -> None:
    """Put every frame in the inbox, an InvalidInput for each that is none; returns when the stream ends."""
    while True:
        try:
            for frame in read_frames(stream):
                inbox.put(frame)
            return
        except (FrameError, ValueError, RecursionError) as exc:
            inbox.put(InvalidInput(f"not a frame: {exc}", code="malformed_frame"))


def _read_until_closed(inbox: SimpleQueue[Frame | InvalidInput | None]) -> None:
    read_into(inbox, sys.stdin.buffer)
    # The worker is gone: nobody is there to finish anything for.
    os._exit(0)


def _watch_parent(parent: int) -> None:
    """stdin may stay open in a process that the worker started after this one."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os._exit(0)


def _configured(inbox: SimpleQueue[Frame | InvalidInput | None], write: Callable[[Frame], None]) -> Engine:
    """Wait for a valid configuration; a wrong one is answered and the next is waited for."""
    while True:
        frame = inbox.get()
        try:
            if isinstance(frame, InvalidInput):
                raise frame
            if frame is not None:
                options = parse(CONFIGURE, frame).model_dump(exclude={"op"}, exclude_none=True)
                return Engine(EngineConfig(**settled(options)), on_wake=lambda: inbox.put(None))
        except (InvalidInput, ConfigurationError) as error:
            write(error_frame(error, None))


def serve(
    child: Child, inbox: SimpleQueue[Frame | InvalidInput | None], write: Callable[[Frame], None]
) -> None:
    """Turn until drained: take all that has come, then one step; sleep only when nothing is to be done."""
    while not child.done:
        patience = child.patience
        try:
            frame = inbox.get(block=patience != 0, timeout=patience)
            while True:
                _receive(child, frame, write)
                frame = inbox.get_nowait()
        except Empty:
            child.turn()


def _receive(child: Child, frame: Frame | InvalidInput | None, write: Callable[[Frame], None]) -> None:
    if isinstance(frame, InvalidInput):
        write(error_frame(frame, None))
    elif frame is not None:
        child.handle(frame)


def main() -> int:
    write = claim_stdout()
    logging.basicConfig(format="engine: %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("services.inference").setLevel(logging.INFO)
    # The worker decides when this process ends: by drain, by closing stdin, or by a kill.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: SimpleQueue[Frame | InvalidInput | None] = SimpleQueue()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    threading.Thread(target=_read_until_closed, args=(inbox,), daemon=True).start()
    engine = _configured(inbox, write)
    child = Child(engine, write, time.monotonic)
    config = engine.config
    write({"type": "ready", "device": describe(config.device), "dtype": config.dtype})
    try:
        serve(child, inbox, write)
        child.close()
    except BrokenPipeError:
        os._exit(0)
    except Exception as exc:  # noqa: BLE001 - a bug: say so for every request, and let the worker start afresh
        message = f"the engine failed: {type(exc).__name__}"
        child.fail_all(HeliuError(message, code="engine_failed", retryable=True))
        sys.excepthook(type(exc), exc, exc.__traceback__)
        return _ENGINE_BROKEN
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # A plain exit aborts: the reading thread still holds stdin. All frames are flushed.
    os._exit(code)
