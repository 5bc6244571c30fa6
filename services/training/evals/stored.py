"""Stored chats as items of a run: what was asked, and the answer that was given, which is the item's sample. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.training.evals.items import Raw
from services.training.evals.sampling import chat_values
from shared.contracts.answers import CHAT, completion
from shared.contracts.inference import ChatMessage
from shared.contracts.stored_chats import StoredBody
from shared.contracts.tools import call_objects, tool_object


def item_of(chat_id: str, model: str, metadata: Mapping[str, str], body: StoredBody) -> Raw:
    """(item, sample) of a chat, by its first choice. Its `input` can be asked again as it stands."""
    sample = chat_values(model, completion(CHAT, chat_id, model, body.created, body.choices, body.usage))
    item = {
        "id": chat_id,
        "created_at": body.created,
        "model": model,
        "metadata": dict(metadata),
        "input": [_message(one) for one in body.messages],
        "output_text": sample["output_text"],
        "finish_reason": sample["finish_reason"],
    }
    if body.tools:
        item["tools"] = [tool_object(tool) for tool in body.tools]
    if sample["output_tools"]:
        item["output_tools"] = sample["output_tools"]
    return _clean(item), _clean(sample)


def _message(message: ChatMessage) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = call_objects(message.tool_calls)
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    return told


def _clean(value: Any) -> Any:
    """The value with what no column of text holds replaced: a model may say a NUL, or half of a surrogate pair."""
    if isinstance(value, str):
        return "".join("�" if c == "\x00" or "\ud800" <= c <= "\udfff" else c for c in value)
    if isinstance(value, dict):
        return {key: _clean(one) for key, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list) else value
