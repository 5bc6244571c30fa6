"""What chat and text completions share: how to decode, how to stream, and how a wrong body is told. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shared.contracts.inference import MAX_CHOICES, Sampling
from shared.contracts.structured import response_format, structured_outputs
from shared.errors import InvalidInput

MAX_STOPS = 4
MAX_BIASED = 1024

# Said about the request and not about the answer.
ABOUT = frozenset(
    {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ModelBody(BaseModel):
    """A request to a model: unknown fields are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    # Asked for by name and not served: (parameter, the values that ask for nothing).
    unserved: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str = Field(min_length=1, max_length=256)


class DecodingBody(ModelBody):
    """The fields of a request that say how to choose tokens and how to send them."""

    max_tokens: int | None = Field(default=None, ge=1, le=131_072)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=100_000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    logit_bias: dict[str, float] | None = Field(default=None, max_length=MAX_BIASED)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: str | list[str] | None = None
    response_format: Any = None
    structured_outputs: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} stop sequences are allowed, got {len(value)}")
        if value == "" or (isinstance(value, list) and any(s == "" or len(s) > 512 for s in value)):
            raise ValueError("a stop sequence has 1 to 512 characters")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _tokens_by_number(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for token, bias in (value or {}).items():
            if not (token.isascii() and token.isdigit() and len(token) < 8):
                raise ValueError(f"a key is the number of a token, got {short(token)}")
            if not -100 <= bias <= 100:
                raise ValueError(f"a bias is from -100 to 100, got {bias} for token {token}")
        return value

    @model_validator(mode="after")
    def _options_of_streams_alone(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidInput("stream_options is only allowed with stream=true", param="stream_options")
        return self

    def sampling(self, *, max_tokens: int | None, top_logprobs: int | None) -> Sampling:
        """How to decode; `top_logprobs` None asks for no log probabilities. Raises InvalidInput for a bad grammar."""
        if self.response_format is not None and self.structured_outputs is not None:
            raise InvalidInput(
                "give response_format or structured_outputs, not both", param="structured_outputs"
            )
        grammar, form = None, {}
        if self.response_format is not None:
            grammar, form = response_format(self.response_format), {"response_format": self.response_format}
        elif self.structured_outputs is not None:
            grammar = structured_outputs(self.structured_outputs)
            form = {"structured_outputs": self.structured_outputs}
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=self.repetition_penalty,
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            grammar=grammar,
            form=json.dumps(form, ensure_ascii=False) if grammar is not None else None,
            logprobs=top_logprobs is not None,
            top_logprobs=top_logprobs or 0,
        )


B = TypeVar("B", bound=ModelBody)


def read_body(form: type[B], body: Mapping[str, Any], shapes: Collection[str] = ()) -> B:
    """The body as `form`. Raises InvalidInput whose `param` is the place: `messages[2].content`.

    `shapes` are names that pydantic puts into the place of a value that may have several types.
    """
    if not isinstance(body, dict):
        raise InvalidInput(f"the body must be a JSON object, got {type(body).__name__}", param="body")
    wanted = dict(body)
    for name, harmless in form.unserved.items():
        if name in wanted:
            value = wanted.pop(name)
            if not any(type(value) is type(h) and value == h for h in harmless):
                raise InvalidInput(
                    f"{name}={short(value)} is not served by this platform; leave it out",
                    code="unsupported_parameter",
                    param=name,
                )
    for name in ABOUT & wanted.keys():
        wanted.pop(name)
    try:
        parsed = form.model_validate(wanted)
    except ValidationError as exc:
        raise _translate(exc, form, shapes) from exc
    check_text(parsed.model, "model")
    return parsed


def user_of(body: Mapping[str, Any]) -> str | None:
    """Whom a request is for, as far as it says; only told apart, so that half a character is as good as any."""
    user = body.get("user")
    return user.encode("utf-8", "backslashreplace").decode() if isinstance(user, str) and user else None


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


def _translate(exc: ValidationError, form: type[ModelBody], shapes: Collection[str]) -> InvalidInput:
    first = exc.errors(include_url=False)[0]
    place = ""
    for part in first["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in ("str", "list[str]") or part in shapes:
            continue
        else:
            place += f".{part[:80]}" if place else part[:80]
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        close = difflib.get_close_matches(str(first["loc"][0]), [*form.model_fields, *form.unserved], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return InvalidInput(f"unknown parameter {place!r}{hint}", code="unknown_parameter", param=place)
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    given = "" if first["type"] == "missing" else f", got {short(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    return InvalidInput(f"{place}: {message}{given}", code=code, param=place)


def short(value: Any) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
