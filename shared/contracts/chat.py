"""The body of a chat completion request, checked the same way for the live route and for each row of a batch.

What the platform cannot do is refused by name; nothing that changes an answer is ever ignored. Shapes after
https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared.contracts.inference import ChatMessage, Sampling
from shared.errors import InvalidInput

MAX_MESSAGES = 2048

# Asked for by name and not served: (parameter, the values that ask for nothing).
UNSERVED: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0, 0.0),
    "presence_penalty": (None, 0, 0.0),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "web_search_options": (None,),
    "store": (None, False),
}

# Said about the request and not about the answer.
ABOUT = frozenset(
    {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: str
    text: str

    @field_validator("type")
    @classmethod
    def _text_only(cls, value: str) -> str:
        if value != "text":
            raise ValueError(f"content parts of type {_short(value)} are not served; only 'text' is")
        return value


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: str
    content: str | list[_Part]
    name: str | None = None
    # An answer that a client sends back as it came has these, empty.
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @field_validator("role")
    @classmethod
    def _known_role(cls, value: str) -> str:
        if value not in ("system", "developer", "user", "assistant"):
            raise ValueError(f"role {_short(value)} is not served; use system, developer, user or assistant")
        return value


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _ChatBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str = Field(min_length=1, max_length=256)
    messages: list[_Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(default=None, ge=1, le=131_072)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=131_072)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=100_000)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > 4:
            raise ValueError(f"at most 4 stop sequences are allowed, got {len(value)}")
        if value == "" or (isinstance(value, list) and any(s == "" or len(s) > 512 for s in value)):
            raise ValueError("a stop sequence has 1 to 512 characters")
        return value


@dataclass(frozen=True)
class ChatRequest:
    """A checked request: which model, what was said, how to decode, how to answer."""

    model: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool


def parse_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Raises InvalidInput whose `param` is the place: `messages[2].content`."""
    if not isinstance(body, dict):
        raise InvalidInput(f"the body must be a JSON object, got {type(body).__name__}", param="body")
    wanted = dict(body)
    for name, harmless in UNSERVED.items():
        if name in wanted:
            value = wanted.pop(name)
            if not any(type(value) is type(h) and value == h for h in harmless):
                raise InvalidInput(
                    f"{name}={_short(value)} is not served by this platform; leave it out",
                    code="unsupported_parameter",
                    param=name,
                )
    for name in ABOUT & wanted.keys():
        wanted.pop(name)
    try:
        parsed = _ChatBody.model_validate(wanted)
    except ValidationError as exc:
        raise _translate(exc) from exc
    if parsed.max_tokens is not None and parsed.max_completion_tokens is not None:
        raise InvalidInput("give max_tokens or max_completion_tokens, not both", param="max_tokens")
    if parsed.stream_options is not None and not parsed.stream:
        raise InvalidInput("stream_options is only allowed with stream=true", param="stream_options")
    check_text(parsed.model, "model")
    stop = (parsed.stop,) if isinstance(parsed.stop, str) else tuple(parsed.stop or ())
    return ChatRequest(
        model=parsed.model,
        messages=tuple(_message(index, message) for index, message in enumerate(parsed.messages)),
        sampling=Sampling(
            max_tokens=parsed.max_completion_tokens or parsed.max_tokens,
            temperature=1.0 if parsed.temperature is None else parsed.temperature,
            top_p=1.0 if parsed.top_p is None else parsed.top_p,
            top_k=parsed.top_k or 0,
            seed=parsed.seed,
            stop=stop,
        ),
        stream=bool(parsed.stream),
        include_usage=bool(parsed.stream_options and parsed.stream_options.include_usage),
    )


def check_text(text: str, param: str) -> None:
    """Raise InvalidInput for what neither Postgres nor UTF-8 can hold: NUL and lone surrogates."""
    if "\x00" in text:
        raise InvalidInput(f"{param} holds a NUL character", param=param)
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(
            f"{param} holds half of a surrogate pair at character {exc.start}", param=param
        ) from exc


def _message(index: int, message: _Message) -> ChatMessage:
    content = (
        message.content if isinstance(message.content, str) else "".join(p.text for p in message.content)
    )
    check_text(content, f"messages[{index}].content")
    return ChatMessage.model_validate({"role": message.role, "content": content})


def _translate(exc: ValidationError) -> InvalidInput:
    first = exc.errors(include_url=False)[0]
    place = ""
    for part in first["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in ("str", "list[_Part]", "list[str]"):
            continue
        else:
            place += f".{part[:80]}" if place else part[:80]
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        close = difflib.get_close_matches(str(first["loc"][0]), [*_ChatBody.model_fields, *UNSERVED], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return InvalidInput(f"unknown parameter {place!r}{hint}", code="unknown_parameter", param=place)
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    given = "" if first["type"] == "missing" else f", got {_short(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    return InvalidInput(f"{place}: {message}{given}", code=code, param=place)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
