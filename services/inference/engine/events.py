"""What comes out of the engine: text as it grows, and how a request ended. Knows no model and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.inference.tool_calls import Call


class FinishReason(StrEnum):
    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its own text (may hold a replacement character), and ln p under the raw logits.

    `top` are the likeliest tokens of its place, with none of their own; `bytes` what the token stands for.
    """

    id: int
    text: str
    logprob: float
    bytes: tuple[int, ...] = ()
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """`cached_tokens` of the prompt were found in the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds. `queue` to the first scheduled step, `prefill` from there to the first token, `decode` the rest."""

    queue: float
    prefill: float
    decode: float
    first_token: float | None


@dataclass(frozen=True)
class Span:
    """A stretch of one request's life, in Unix nanoseconds."""

    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, int | float | str]


@dataclass(frozen=True)
class TokenDelta:
    """New text of a streaming request; `tokens` were chosen for it, `index` is the first one's position."""

    request_id: str
    text: str
    tokens: int
    index: int
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The request's end: whole text, all chosen tokens (the end token included), and what it took.

    `decoding` are the settings that the model had by itself and the request left to it.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    spans: tuple[Span, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[Call, ...] = ()
    decoding: Mapping[str, float | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded:
    """The end of a request for a vector: float32 numbers, little endian, and how many tokens its input had.

    Seconds: `queue` to the first step that had it, `compute` from there.
    """

    request_id: str
    vector: bytes
    tokens: int
    queue: float
    compute: float
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Scored:
    """The end of a request to a head: (label, score), the best first; a head without labels has one of None.

    `labels` are those over one half of a head that may give several, else None. Seconds as of Embedded.
    """

    request_id: str
    predictions: tuple[tuple[str | None, float], ...]
    labels: tuple[str, ...] | None
    tokens: int
    queue: float
    compute: float
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Failed:
    """This request alone has failed; `code`, `param` and `retryable` as in HeliuError."""

    request_id: str
    code: str
    message: str
    param: str | None
    retryable: bool


@dataclass(frozen=True)
class Loaded:
    """A base, an adapter or an encoder is in memory."""

    kind: str
    id: str
    seconds: float


Event = TokenDelta | Finished | Embedded | Scored | Failed | Loaded
