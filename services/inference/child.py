"""The engine as a process: frames from the worker on stdin, frames with its events on stdout.

`python -m services.inference.child`; `shared/frames.py` has the framing. Knows no queue and no worker; it ends at
once when stdin closes or its parent is gone, and after `drain` when all is finished.
"""

from __future__ import annotations

import base64
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.inference.aside import Aside, Detokenize, Folder, OfModel, Tokenize
from services.inference.engine.engine import Engine
from services.inference.engine.request import (
    Embedded,
    EngineConfig,
    Event,
    Failed,
    Finished,
    Loaded,
    ModelRef,
    Priority,
    Request,
    Sampling,
    TokenDelta,
    TokenLogprob,
    Tools,
    Vector,
)
from shared.errors import ConfigurationError, HeliuError, InvalidInput
from shared.frames import Frame, FrameError, claim_stdout, read_frames

# Text of one request leaves at most this often; the first of it at once.
WINDOW_S = 0.02
# How often deadlines are looked at while only a load is under way, and the parent at any time.
_IDLE_POLL_S = 0.05
_PARENT_POLL_S = 1.0
_ENGINE_BROKEN = 70


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Configure(_Message):
    """The first frame: EngineConfig by name."""

    op: Literal["configure"]
    max_slots: int
    kv_tokens: int
    threads: int | None = None
    max_models: int = 2
    max_model_bytes: int = 0
    max_adapters: int = 16
    max_encoders: int = 2
    block_size: int = 16
    step_tokens: int = 512
    live_step_tokens: int = 96
    default_max_tokens: int = 1_024
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class ToolCall(_Message):
    id: str
    name: str
    arguments: str


class ChatMessage(_Message):
    role: str
    content: str
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None


class Function(_Message):
    name: str
    description: str | None = None
    parameters: str


class SamplingOptions(_Message):
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    # Pairs of token and bias.
    logit_bias: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = []
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: list[str] = []
    grammar: str | None = None
    logprobs: bool = False
    top_logprobs: int = 0


class Generate(_Message):
    op: Literal["generate"]
    id: str = Field(min_length=1)
    base: Folder
    tenant: str = ""
    priority: Literal["live", "batch"] = "live"
    adapter: Folder | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Function] = []
    tool_choice: str | None = None
    parallel_tool_calls: bool = True
    prompt: str | None = None
    prompt_ids: list[int] | None = None
    sampling: SamplingOptions = Field(default_factory=SamplingOptions)
    deadline_s: float | None = None
    stream: bool | None = None


class Embed(OfModel):
    op: Literal["embed"]
    tenant: str = ""
    priority: Literal["live", "batch"] = "live"
    prompt: str | None = None
    prompt_ids: list[int] | None = None
    dimensions: int | None = None
    deadline_s: float | None = None


class Cancel(_Message):
    op: Literal["cancel"]
    id: str


class Unload(_Message):
    op: Literal["unload"]
    base_id: str | None = None
    adapter_id: str | None = None


class Drain(_Message):
    op: Literal["drain"]


class AskStats(_Message):
    op: Literal["stats"]


Operation = Generate | Embed | Tokenize | Detokenize | Cancel | Unload | Drain | AskStats
_CONFIGURE: TypeAdapter[Configure] = TypeAdapter(Configure)
_OPERATION: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="op")])


M = TypeVar("M")


def parse(adapter: TypeAdapter[M], frame: Frame) -> M:
    """The frame as a typed message. Raises InvalidInput that names the first field at fault."""
    try:
        return adapter.validate_python(frame)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        names = [str(part) for part in first["loc"] if part != frame.get("op")]
        where = ".".join(names) or "op"
        raise InvalidInput(f"{where}: {first['msg']}", param=where) from exc


def to_request(message: Generate) -> Request:
    """The engine's request. Raises InvalidInput for values out of range."""
    options = message.sampling.model_dump()
    options["stop"] = tuple(options["stop"])
    options["logit_bias"] = tuple((int(token), bias) for token, bias in options["logit_bias"])
    messages = None if message.messages is None else tuple(item.model_dump() for item in message.messages)
    functions = tuple(item.model_dump() for item in message.tools)
    adapter = message.adapter
    return Request(
        id=message.id,
        base=ModelRef(message.base.id, message.base.path),
        adapter=None if adapter is None else ModelRef(adapter.id, adapter.path),
        tenant=message.tenant,
        priority=Priority(message.priority),
        messages=messages,
        tools=Tools(functions, message.tool_choice, message.parallel_tool_calls) if functions else None,
        prompt=message.prompt,
        prompt_ids=None if message.prompt_ids is None else tuple(message.prompt_ids),
        sampling=Sampling(**options),
        deadline_s=message.deadline_s,
        stream=message.priority == "live" if message.stream is None else message.stream,
    )


def to_vector_request(message: Embed) -> Request:
    """The same of a request for a vector."""
    base, adapter = message.refs
    return Request(
        id=message.id,
        base=base,
        adapter=adapter,
        tenant=message.tenant,
        priority=Priority(message.priority),
        prompt=message.prompt,
        prompt_ids=None if message.prompt_ids is None else tuple(message.prompt_ids),
        vector=Vector(message.dimensions, message.encoder),
        deadline_s=message.deadline_s,
        stream=False,
    )


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
            self._obey(parse(_OPERATION, frame))
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
        elif isinstance(message, Embed):
            self._engine.add(to_vector_request(message))
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
            held.setdefault("logprobs", []).extend(_logprobs(delta.logprobs))
        if delta.tool_calls:
            held.setdefault("tool_calls", []).extend(asdict(call) for call in delta.tool_calls)

    def _flush(self, request_id: str, now: float) -> None:
        held = self._held.pop(request_id, None)
        if held is not None:
            self._write(held)
            self._sent[request_id] = now

    def _close(self, request_id: str) -> None:
        self._flush(request_id, self._clock())
        self._sent.pop(request_id, None)
        self._active.discard(request_id)


def done_frame(event: Finished) -> Frame:
    timings = event.timings
    frame: Frame = {
        "type": "done",
        "id": event.request_id,
        "text": event.text,
        "finish_reason": str(event.finish_reason),
        "usage": asdict(event.usage),
        "timings": {
            "queue_s": timings.queue,
            "prefill_s": timings.prefill,
            "decode_s": timings.decode,
            "first_token_s": timings.first_token,
        },
        "spans": [asdict(span) for span in event.spans],
    }
    if event.logprobs is not None:
        frame["logprobs"] = _logprobs(event.logprobs)
    if event.tool_calls:
        frame["tool_calls"] = [asdict(call) for call in event.tool_calls]
    return frame


def vector_frame(event: Embedded) -> Frame:
    return {
        "type": "done",
        "id": event.request_id,
        "vector": base64.b64encode(event.vector).decode(),
        "usage": {"prompt_tokens": event.tokens},
        "timings": {"queue_s": event.queue, "compute_s": event.compute},
        "spans": [asdict(span) for span in event.spans],
    }


def error_frame(error: HeliuError, request_id: str | None) -> Frame:
    return {
        "type": "error",
        "id": request_id,
        "code": error.code,
        "message": _plain(error.message),
        "param": error.param and _plain(error.param),
        "retryable": error.retryable,
    }


def _logprobs(items: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
    return [{**_told(item), "top": [_told(other) for other in item.top]} for item in items]


def _told(item: TokenLogprob) -> dict[str, Any]:
    return {"id": item.id, "token": item.text, "logprob": item.logprob, "bytes": list(item.bytes)}


def _frame_id(frame: Frame) -> str | None:
    found = frame.get("id")
    return _plain(found) if isinstance(found, str) else None


def _plain(text: str) -> str:
    """Text that UTF-8 can carry: JSON may hold half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


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
                options = parse(_CONFIGURE, frame).model_dump(exclude={"op"})
                return Engine(EngineConfig(**options), on_wake=lambda: inbox.put(None))
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
    # The worker decides when this process ends: by drain, by closing stdin, or by a kill.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: SimpleQueue[Frame | InvalidInput | None] = SimpleQueue()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    threading.Thread(target=_read_until_closed, args=(inbox,), daemon=True).start()
    engine = _configured(inbox, write)
    child = Child(engine, write, time.monotonic)
    write({"type": "ready"})
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
