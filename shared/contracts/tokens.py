"""The bodies of requests to tokenize and detokenize, and their answers. Pure.

Shapes after vLLM's routes of the same names, which its users' tools know: https://docs.vllm.ai.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from shared.contracts.chat import parse_chat
from shared.contracts.decoding import ModelBody, check_text, read_body, short
from shared.contracts.inference import Detokenize, ModelRef, Tokenize
from shared.errors import InvalidInput

TOKENIZE = "/v1/tokenize"
DETOKENIZE = "/v1/detokenize"
MAX_TOKENS = 131_072


class TokenizeBody(ModelBody):
    prompt: str | None = None
    # As in a chat, whose reader checks them.
    messages: Any = None
    tools: Any = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(ModelBody):
    tokens: list[Any] = Field(max_length=MAX_TOKENS)


@dataclass(frozen=True)
class TokenizeRequest:
    """A checked request; `of` makes the call to the model that its name stands for."""

    model: str
    options: Mapping[str, Any]

    def of(self, model: ModelRef) -> Tokenize:
        return Tokenize(model=model, **self.options)


@dataclass(frozen=True)
class DetokenizeRequest:
    model: str
    tokens: tuple[int, ...]

    def of(self, model: ModelRef) -> Detokenize:
        return Detokenize(model=model, tokens=self.tokens)


def parse_tokenize(body: Mapping[str, Any]) -> TokenizeRequest:
    """Raises InvalidInput naming the place."""
    parsed = read_body(TokenizeBody, body)
    if (parsed.prompt is None) == (parsed.messages is None):
        raise InvalidInput("give prompt (a text) or messages (a chat), one of both", param="prompt")
    options: dict[str, Any] = {"token_strs": parsed.return_token_strs is not False}
    if parsed.prompt is not None:
        for name in ("tools", "add_generation_prompt"):
            if getattr(parsed, name) is not None:
                raise InvalidInput(f"{name} goes with messages, and not with a prompt", param=name)
        check_text(parsed.prompt, "prompt")
        options |= {"prompt": parsed.prompt, "add_special_tokens": parsed.add_special_tokens is not False}
        return TokenizeRequest(parsed.model, options)
    if parsed.add_special_tokens is not None:
        raise InvalidInput(
            "add_special_tokens goes with a prompt; a chat's are those of its template",
            param="add_special_tokens",
        )
    chat = {"model": parsed.model, "messages": parsed.messages, "tools": parsed.tools}
    asked = parse_chat(chat)
    options |= {
        "messages": asked.messages,
        "tools": asked.tools,
        "add_generation_prompt": parsed.add_generation_prompt is not False,
    }
    return TokenizeRequest(parsed.model, options)


def parse_detokenize(body: Mapping[str, Any]) -> DetokenizeRequest:
    """Raises InvalidInput naming the place: `tokens[3]`."""
    parsed = read_body(DetokenizeBody, body)
    for index, token in enumerate(parsed.tokens):
        if type(token) is not int or not 0 <= token < 2**31:
            place = f"tokens[{index}]"
            raise InvalidInput(f"{place} must be a whole number from 0, got {short(token)}", param=place)
    return DetokenizeRequest(parsed.model, tuple(parsed.tokens))


def tokenized(tokens: Sequence[int], texts: Sequence[str] | None, context: int) -> dict[str, Any]:
    """The answer; a token's own text has a replacement character where it is no whole one."""
    return {"count": len(tokens), "max_model_len": context, "tokens": tokens, "token_strs": texts}


def detokenized(text: str) -> dict[str, Any]:
    return {"prompt": text}
