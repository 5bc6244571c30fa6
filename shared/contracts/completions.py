"""The body of a text completion request, live or as a row of a batch. Nothing that changes an answer is ignored.

Shapes after https://platform.openai.com/docs/api-reference/completions/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from shared.contracts.decoding import DecodingBody, check_text, read_body, user_of
from shared.contracts.inference import MAX_CHOICES, MAX_PROMPTS, CompletionRequest
from shared.errors import InvalidInput

MAX_PROMPT_TOKENS = 131_072


class CompletionBody(DecodingBody):
    unserved: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "best_of": (None, 1),
        "echo": (None, False),
        "suffix": (None, ""),
    }

    # Checked by hand: of four shapes, a place in the right one helps.
    prompt: Any
    logprobs: int | None = Field(default=None, ge=0, le=20)


def parse_completion(body: Mapping[str, Any]) -> CompletionRequest:
    """Raises InvalidInput whose `param` is the place: `prompt[2]`."""
    parsed = read_body(CompletionBody, body)
    prompts = _prompts(parsed.prompt)
    if len(prompts) * (parsed.n or 1) > MAX_CHOICES:
        raise InvalidInput(
            f"{len(prompts)} prompts with n={parsed.n} make {len(prompts) * (parsed.n or 1)} choices; a request "
            f"has at most {MAX_CHOICES}",
            param="n",
        )
    return CompletionRequest(
        model=parsed.model,
        user=user_of(body),
        prompts=prompts,
        n=parsed.n or 1,
        sampling=parsed.sampling(max_tokens=parsed.max_tokens, top_logprobs=parsed.logprobs),
        stream=bool(parsed.stream),
        include_usage=bool(parsed.stream_options and parsed.stream_options.include_usage),
    )


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """One or more texts or lists of tokens."""
    if isinstance(value, str):
        return (_text(value, "prompt"),)
    if not isinstance(value, list) or not value:
        raise InvalidInput(
            "prompt must be a string, a list of tokens, or a list of such; it is not empty", param="prompt"
        )
    if all(type(item) is int for item in value):
        return (_tokens(value, "prompt"),)
    if len(value) > MAX_PROMPTS:
        raise InvalidInput(f"a request has at most {MAX_PROMPTS} prompts, got {len(value)}", param="prompt")
    return tuple(
        _text(item, f"prompt[{index}]") if isinstance(item, str) else _tokens(item, f"prompt[{index}]")
        for index, item in enumerate(value)
    )


def _text(value: str, place: str) -> str:
    if not value:
        raise InvalidInput(f"{place} is empty; give at least one character", param=place)
    check_text(value, place)
    return value


def _tokens(value: Any, place: str) -> tuple[int, ...]:
    good = isinstance(value, list) and all(type(item) is int and 0 <= item < 2**31 for item in value)
    if not good or not 1 <= len(value) <= MAX_PROMPT_TOKENS:
        raise InvalidInput(
            f"{place} must be a string or a list of 1 to {MAX_PROMPT_TOKENS} tokens (whole numbers from 0)",
            param=place,
        )
    return tuple(value)
