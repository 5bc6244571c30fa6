"""Stored chats as the openai client reads them: the answer with its settings, and the messages before it. Pure."""

from __future__ import annotations

import json
from typing import Any

from shared.contracts.answers import CHAT, completion
from shared.contracts.inference import ChatMessage
from shared.contracts.tools import call_objects, tool_object
from shared.stored_chats import Found
from shared.task.marking import labelled, metadata

Shape = dict[str, Any]


def completion_object(chat: Found) -> Shape:
    """The answer as its client got it, but for probabilities, and what it was asked with."""
    body = chat.body
    choices = labelled(body.marking, body.choices)
    made = completion(CHAT, chat.id, chat.model, body.created, choices, body.usage)
    for shown, kept in zip(made["choices"], body.choices, strict=True):
        if "annotations" in kept:
            shown["message"]["annotations"] = kept["annotations"]
    sampling = body.sampling
    form = json.loads(sampling.form) if sampling.form is not None else {}
    return {
        **made,
        **metadata(body.marking, chat.id, [str(choice["text"]) for choice in body.choices]),
        "metadata": chat.metadata,
        "request_id": body.request_id,
        "tools": [tool_object(tool) for tool in body.tools] or None,
        "tool_choice": _tool_choice(body.tool_choice),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "max_completion_tokens": sampling.max_tokens,
        "response_format": form.get("response_format"),
    }


def message_object(chat_id: str, number: int, message: ChatMessage) -> Shape:
    """One of the messages that the model was sent; its id says which."""
    shown: Shape = {
        "id": f"{chat_id}-{number}",
        "role": message.role,
        "content": message.content,
        "name": None,
        "content_parts": None,
        "refusal": None,
    }
    if message.tool_calls:
        shown["content"] = message.content or None
        shown["tool_calls"] = call_objects(message.tool_calls)
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    return shown


def _tool_choice(choice: str | None) -> Any:
    if choice is None or choice == "required":
        return choice
    return {"type": "function", "function": {"name": choice}}
