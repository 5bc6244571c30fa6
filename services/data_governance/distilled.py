"""Rows of training out of stored chats: what a student learns of a teacher's answer, and which teach nothing. Pure."""

from __future__ import annotations

import json
from typing import Any

from shared.contracts.stored_chats import StoredBody

# As long as a line of a training file may be.
LONGEST = 1 << 20


def row_of(chat: StoredBody) -> tuple[bytes, str | None]:
    """(a line of `messages` that ends in the answer, None), or (nothing, the reason why there is none).

    An answer that was cut would teach to stop in the middle. Earlier turns of an assistant are not learned: they are
    not the answer. Of several choices the first counts.
    """
    choice = chat.choices[0]
    text = str(choice["text"])
    if choice["finish_reason"] == "content_filter":
        return b"", "refused"
    if choice["finish_reason"] == "length":
        return b"", "cut"
    if choice.get("tool_calls") or any(one.tool_calls or one.role == "tool" for one in chat.messages):
        return b"", "with_tools"
    if not text.strip() or not all(one.content.strip() for one in chat.messages):
        return b"", "empty"
    turns: list[dict[str, Any]] = [
        {"role": one.role, "content": one.content, **({"weight": 0} if one.role == "assistant" else {})}
        for one in chat.messages
    ]
    turns.append({"role": "assistant", "content": text})
    try:
        line = json.dumps({"messages": turns}, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return b"", "no_text"
    if "\x00" in text:
        return b"", "no_text"
    if len(line) > LONGEST:
        return b"", "too_long"
    return line, None
