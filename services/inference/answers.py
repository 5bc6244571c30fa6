"""The OpenAI shape of an engine's answer, for the rows of a batch. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoredRow:
    """One answered (or failed) line of a batch."""

    row_no: int
    custom_id: str
    status_code: int
    body: dict[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    model_artifact: str | None = None
    seconds: float = 0.0


def completion(request_id: str, model: str, created: int, done: dict[str, Any]) -> dict[str, Any]:
    """A `chat.completion` object from the engine's `done` frame."""
    usage = done["usage"]
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": done["text"], "refusal": None},
                "logprobs": None,
                "finish_reason": done["finish_reason"],
            }
        ],
        "usage": {
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": usage["completion_tokens"],
            "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
        },
    }


def row_error(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of a row that has no answer."""
    kind = "invalid_request_error" if param else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def row_request_id(batch_id: str, row_no: int) -> str:
    """The same for every attempt at a row, so that what refers to it stays true."""
    return hashlib.sha256(f"{batch_id}:{row_no}".encode()).hexdigest()[:24]
