"""What goes into the engine: settings and requests. What comes out is in `events`. Knows no model and no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from shared.errors import ConfigurationError, InvalidInput

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_TOP_LOGPROBS = 20
MAX_BIASED_TOKENS = 1024


class Priority(StrEnum):
    """Live goes before batch, and takes a batch row's place when there is no room."""

    LIVE = "live"
    BATCH = "batch"


@dataclass(frozen=True)
class EngineConfig:
    """Room and limits of one engine; every number is checked here.

    `kv_tokens` is the cache of each base in tokens (rounded down to whole blocks); `step_tokens` the tokens of one
    forward pass, decodes first, and `live_step_tokens` those of one in which live answers grow; `max_models` and
    `max_model_bytes` (0 = no limit) bound the bases in memory, `max_adapters` the adapters of each base,
    `max_encoders` the sentence encoders beside the bases. On a GPU with kernels, `kv_share` of the memory that is free
    once a base is loaded is its cache, unless it is 0.
    """

    max_slots: int = 16
    kv_tokens: int = 16_384
    kv_share: float = 0.0
    threads: int | None = None
    max_models: int = 2
    max_model_bytes: int = 0
    max_adapters: int = 16
    max_encoders: int = 2
    block_size: int = 16
    step_tokens: int = 512
    # While live answers grow: a long prompt then costs a stream tens of milliseconds. Batches alone run at full length.
    live_step_tokens: int = 96
    default_max_tokens: int = 1_024
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def kv_capacity(self) -> int:
        """Tokens of whole blocks."""
        return self.kv_tokens // self.block_size * self.block_size

    def __post_init__(self) -> None:
        for name in (
            "max_slots",
            "kv_tokens",
            "max_models",
            "max_adapters",
            "max_encoders",
            "block_size",
            "step_tokens",
            "live_step_tokens",
            "default_max_tokens",
        ):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be 1 or more, got {getattr(self, name)}", param=name)
        if self.max_model_bytes < 0:
            raise ConfigurationError(
                f"max_model_bytes must be 0 (no limit) or more, got {self.max_model_bytes}",
                param="max_model_bytes",
            )
        if not 0 <= self.kv_share < 1:
            raise ConfigurationError(
                f"kv_share must be from 0 to less than 1, got {self.kv_share}", param="kv_share"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"threads must be 1 or more, got {self.threads}", param="threads")
        if self.kv_tokens < 2 * self.block_size:
            raise ConfigurationError(
                f"kv_tokens must hold two blocks of {self.block_size} tokens or more, got {self.kv_tokens}",
                param="kv_tokens",
            )


@dataclass(frozen=True)
class ModelRef:
    """A local folder of a base or an adapter, and the id it is known (and cached) by."""

    id: str
    path: str


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 keep every token.

    `min_p` keeps what is at least that share of the likeliest token's probability. Frequency and presence penalty
    are taken off the logits of what was answered before, for each time and once; the repetition penalty (1 is none)
    divides those of prompt and answer (https://arxiv.org/abs/1909.05858). `logit_bias` is added by token. `grammar`
    limits the answer (see `grammar.py`). `top_logprobs` tokens are told beside each chosen one with `logprobs`.
    `max_tokens` None means what fits, capped by the engine's default, or by `default_tokens` where that is given.
    `unsaid` are the names of settings that the model's own take the place of, where it has them. `ignore_eos` is for
    measurements.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    ignore_eos: bool = False
    default_tokens: int | None = None
    unsaid: frozenset[str] = frozenset()

    @property
    def counts_tokens(self) -> bool:
        """The choice depends on how often tokens were answered before."""
        return bool(self.frequency_penalty or self.presence_penalty or self.repetition_penalty != 1)

    def of_model(self, own: Mapping[str, float | int]) -> tuple[Sampling, dict[str, float | int]]:
        """(the same with what was left to the model, those of the model's settings that it took).

        The model's `max_tokens` is what an answer has where there is room.
        """
        taken = {name: value for name, value in own.items() if name in self.unsaid}
        settled = {name: value for name, value in taken.items() if name != "max_tokens"}
        most = taken.get("max_tokens", self.default_tokens)
        return replace(self, **settled, default_tokens=most), taken  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidInput(f"max_tokens must be 1 or more, got {self.max_tokens}", param="max_tokens")
        for name, low, high in (
            ("temperature", 0, 2),
            ("min_p", 0, 1),
            ("frequency_penalty", -2, 2),
            ("presence_penalty", -2, 2),
            ("repetition_penalty", 0.01, 100),
            ("top_logprobs", 0, MAX_TOP_LOGPROBS),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise InvalidInput(f"{name} must be from {low} to {high}, got {value}", param=name)
        if len(self.logit_bias) > MAX_BIASED_TOKENS:
            raise InvalidInput(
                f"logit_bias takes at most {MAX_BIASED_TOKENS} tokens, got {len(self.logit_bias)}",
                param="logit_bias",
            )
        for token, bias in self.logit_bias:
            if not (math.isfinite(bias) and -100 <= bias <= 100):
                raise InvalidInput(
                    f"logit_bias must be from -100 to 100, got {bias} for token {token}", param="logit_bias"
                )
        if not (math.isfinite(self.top_p) and 0 < self.top_p <= 1):
            raise InvalidInput(f"top_p must be over 0 and at most 1, got {self.top_p}", param="top_p")
        if self.top_k < 0:
            raise InvalidInput(f"top_k must be 0 (off) or more, got {self.top_k}", param="top_k")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidInput(
                f"stop takes at most {MAX_STOP_STRINGS} strings, got {len(self.stop)}", param="stop"
            )
        for text in self.stop:
            if not 0 < len(text) <= MAX_STOP_CHARACTERS:
                raise InvalidInput(
                    f"a stop string has 1 to {MAX_STOP_CHARACTERS} characters, got {len(text)}", param="stop"
                )


@dataclass(frozen=True)
class Tools:
    """Functions {"name", "description", "parameters": a JSON schema as text} that a chat's model may call.

    `choice` is None where it is free to, "required", or the name of the one that it must call.
    """

    functions: tuple[Mapping[str, Any], ...]
    choice: str | None = None
    parallel: bool = True


@dataclass(frozen=True)
class Vector:
    """Asks for a vector of the input instead of an answer.

    `encoder` says that the base is a sentence encoder; of a causal language model it is the last token's, of length
    1. `dimensions` keeps the first so many numbers, which are brought to length 1 again.
    """

    dimensions: int | None = None
    encoder: bool = False

    def __post_init__(self) -> None:
        if self.dimensions is not None and self.dimensions < 1:
            raise InvalidInput(f"dimensions must be 1 or more, got {self.dimensions}", param="dimensions")


@dataclass(frozen=True)
class Scores:
    """Asks a head for the `top_k` best of its labels, or for its one score.

    `pair` is the second text (a document) beside the prompt. A longer text is cut to `truncate` tokens (-1 is what the
    model takes), or refused where that is None.
    """

    top_k: int = 1
    pair: str | None = None
    truncate: int | None = None


@dataclass(frozen=True)
class Request:
    """One generation. Exactly one of `messages` (chat), `prompt` (text) and `prompt_ids` (tokens) is given.

    `deadline_s` counts from `Engine.add`; what was generated by then is returned.
    """

    id: str
    base: ModelRef
    adapter: ModelRef | None = None
    tenant: str = ""
    priority: Priority = Priority.LIVE
    messages: tuple[Mapping[str, Any], ...] | None = None
    tools: Tools | None = None
    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    vector: Vector | None = None
    scores: Scores | None = None
    sampling: Sampling = field(default_factory=Sampling)
    deadline_s: float | None = None
    stream: bool = True

    def __post_init__(self) -> None:
        given = [name for name in ("messages", "prompt", "prompt_ids") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidInput(
                f"give exactly one of messages, prompt and prompt_ids, got {given or 'none'}",
                param="messages",
            )
        if self.vector is not None and self.messages is not None:
            raise InvalidInput("a vector is of a prompt or of tokens, not of messages", param="messages")
        if self.deadline_s is not None and not math.isfinite(self.deadline_s):
            raise InvalidInput(
                f"deadline_s must be a finite number, got {self.deadline_s}", param="deadline_s"
            )
