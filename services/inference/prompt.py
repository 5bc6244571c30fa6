"""Turns messages or a text into prompt tokens with the model's own tokenizer, and checks that they fit.

Pure: takes a tokenizer (transformers' interface), knows no engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from shared.errors import HeliuError, InvalidInput


class PromptTooLong(HeliuError):
    """The prompt, or the prompt with the answer asked for, is over the model's context."""

    code = "context_length_exceeded"


def render(
    tokenizer: Any,
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    prompt: str | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    answered: bool = True,
    special: bool = True,
) -> list[int]:
    """Token ids of a chat (through the model's template, with `answered` up to where it answers) or of a plain text.

    `special` puts the tokens around a plain text that the model wants there.

    Raises InvalidInput when there is no template, or the template or the tokenizer refuses the input.
    """
    if messages is None:
        if prompt is None:
            raise InvalidInput("give messages or prompt", param="messages")
        return _encode(tokenizer, prompt, special)
    if not messages:
        raise InvalidInput("messages must have one message or more", param="messages")
    if tokenizer.chat_template is None:
        raise InvalidInput(
            "this model has no chat template; send a prompt to completions, or add chat_template.jinja to it",
            code="chat_template_missing",
            param="messages",
        )
    shown = [_message(message) for message in messages]
    return _chat(tokenizer, shown, [_tool(tool) for tool in tools], answered)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """As templates read it: the arguments of calls as an object, and nothing that is not there."""
    shown: dict[str, Any] = {"role": message["role"], "content": message["content"]}
    if message.get("tool_calls"):
        shown["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": json.loads(call["arguments"])},
            }
            for call in message["tool_calls"]
        ]
    if message.get("tool_call_id") is not None:
        shown["tool_call_id"] = message["tool_call_id"]
    return shown


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {
        "name": tool["name"],
        "description": tool.get("description") or "",
        "parameters": json.loads(tool["parameters"]),
    }
    return {"type": "function", "function": function}


def _chat(
    tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]], answered: bool
) -> list[int]:
    """The template writes the special tokens, so none are added; those in a user's text stay plain text."""
    options: dict[str, Any] = {
        "add_generation_prompt": answered,
        "tokenize": True,
        "return_dict": False,
        **({"tools": tools} if tools else {}),
    }
    try:
        try:
            ids = tokenizer.apply_chat_template(messages, sanitize_control_tokens=True, **options)
        except NotImplementedError:
            # The template writes no control token, so a user's text can fake none.
            ids = tokenizer.apply_chat_template(messages, **options)
    except (TemplateError, ValueError, TypeError, KeyError, UnicodeError) as exc:
        raise InvalidInput(
            f"the model's chat template refuses these messages: {exc}", param="messages"
        ) from exc
    return [int(item) for item in ids]


def _encode(tokenizer: Any, prompt: str, special: bool) -> list[int]:
    try:
        return [int(item) for item in tokenizer.encode(prompt, add_special_tokens=special, verbose=False)]
    except (ValueError, TypeError, UnicodeError) as exc:
        raise InvalidInput(f"the model's tokenizer refuses this prompt: {exc}", param="prompt") from exc


def check_characters(characters: int, *, longest_token: int, context: int) -> None:
    """Refuse a text that cannot fit even in the longest tokens, before the time to tokenize it is spent."""
    least = -(-characters // max(longest_token, 1))
    if least > context:
        raise PromptTooLong(
            f"the prompt has {characters} characters, so {least} tokens or more; the model takes {context}",
            param="messages",
        )


def answer_room(prompt_tokens: int, max_tokens: int | None, *, context: int, default_max_tokens: int) -> int:
    """How many tokens may be answered. Raises PromptTooLong (with the numbers) or InvalidInput (empty prompt)."""
    if prompt_tokens < 1:
        raise InvalidInput("the prompt has no tokens; give at least one", param="messages")
    room = context - prompt_tokens
    if room < 1:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens, but the model takes {context} with at least one of answer; "
            "shorten the prompt",
            param="messages",
        )
    if max_tokens is None:
        return min(room, default_max_tokens)
    if max_tokens > room:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}, together "
            f"{prompt_tokens + max_tokens}; the model takes {context}",
            param="max_tokens",
        )
    return max_tokens


def check_length(tokens: int, *, context: int) -> None:
    """Raise PromptTooLong, or InvalidInput, for a text that is only read and not answered."""
    if tokens < 1:
        raise InvalidInput("the text has no tokens; give at least one", param="prompt")
    if tokens > context:
        raise PromptTooLong(
            f"the text has {tokens} tokens, the model takes {context}; cut it into parts", param="prompt"
        )
