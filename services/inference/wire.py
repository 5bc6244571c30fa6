"""What the worker says to the engine's process, checked, and what the process says back. Pure."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.inference.aside import Detokenize, Folder, OfModel, Tokenize
from services.inference.engine.events import Embedded, Finished, Scored, TokenLogprob
from services.inference.engine.request import ModelRef, Priority, Request, Sampling, Scores, Tools, Vector
from shared.contracts.generation_config import NAMES
from shared.errors import HeliuError, InvalidInput
from shared.frames import Frame


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Configure(_Message):
    """The first frame: EngineConfig by name."""

    op: Literal["configure"]
    max_slots: int
    kv_tokens: int
    kv_share: float = 0.0
    threads: int | None = None
    max_models: int = 2
    max_model_bytes: int = 0
    max_adapters: int = 16
    max_encoders: int = 2
    block_size: int = 16
    # None is what suits the device.
    step_tokens: int | None = None
    live_step_tokens: int | None = None
    default_max_tokens: int = 1_024
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


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
    # None is the model's own.
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    # Pairs of token and bias.
    logit_bias: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = []
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: list[str] = []
    grammar: str | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    default_tokens: int | None = Field(default=None, ge=1)


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
    # A frame a token, never several as time has it: so that another attempt at the same answer tells it in the same.
    token_by_token: bool = False


class Embed(OfModel):
    op: Literal["embed"]
    tenant: str = ""
    priority: Literal["live", "batch"] = "live"
    prompt: str | None = None
    prompt_ids: list[int] | None = None
    dimensions: int | None = None
    deadline_s: float | None = None


class Score(OfModel):
    """A head's scores of a text, or of a text and its `pair`."""

    op: Literal["score"]
    tenant: str = ""
    priority: Literal["live", "batch"] = "live"
    prompt: str
    pair: str | None = None
    top_k: int = Field(default=1, ge=1)
    truncate: int | None = Field(default=None, ge=-1)
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


Operation = Generate | Embed | Score | Tokenize | Detokenize | Cancel | Unload | Drain | AskStats
CONFIGURE: TypeAdapter[Configure] = TypeAdapter(Configure)
OPERATION: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="op")])


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
    options = message.sampling.model_dump(exclude_none=True)
    options["unsaid"] = frozenset(NAMES) - options.keys()
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


def to_score_request(message: Score) -> Request:
    """The same of a request for scores."""
    base, _ = message.refs
    return Request(
        id=message.id,
        base=base,
        tenant=message.tenant,
        priority=Priority(message.priority),
        prompt=message.prompt,
        scores=Scores(message.top_k, message.pair, message.truncate),
        deadline_s=message.deadline_s,
        stream=False,
    )


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
    if event.decoding:
        frame["decoding"] = dict(event.decoding)
    if event.logprobs is not None:
        frame["logprobs"] = logprobs_frame(event.logprobs)
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


def score_frame(event: Scored) -> Frame:
    return {
        "type": "done",
        "id": event.request_id,
        "predictions": [list(prediction) for prediction in event.predictions],
        "labels": None if event.labels is None else list(event.labels),
        "usage": {"prompt_tokens": event.tokens},
        "timings": {"queue_s": event.queue, "compute_s": event.compute},
        "spans": [asdict(span) for span in event.spans],
    }


def error_frame(error: HeliuError, request_id: str | None) -> Frame:
    return {
        "type": "error",
        "id": request_id,
        "code": error.code,
        "message": plain(error.message),
        "param": error.param and plain(error.param),
        "retryable": error.retryable,
    }


def logprobs_frame(items: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
    return [{**_told(item), "top": [_told(other) for other in item.top]} for item in items]


def _told(item: TokenLogprob) -> dict[str, Any]:
    return {"id": item.id, "token": item.text, "logprob": item.logprob, "bytes": list(item.bytes)}


def plain(text: str) -> str:
    """Text that UTF-8 can carry: JSON may hold half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")
