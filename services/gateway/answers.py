"""Chat answers in OpenAI's shape, plain and in chunks, from what a worker sends. Pure."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """One answer as it grows. `token` and `done` take the worker's entries; times are monotonic seconds."""

    model: str
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    began: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None

    def token(self, data: dict[str, Any]) -> str:
        """Take a `token` entry {"text", "tokens"}; returns its text."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.began
        tokens = data.get("tokens", 1)
        self.completion_tokens += len(tokens) if isinstance(tokens, list) else int(tokens)
        text = str(data["text"])
        self.text += text
        return text

    def done(self, data: dict[str, Any]) -> str:
        """Take the `done` entry; returns text that no `token` entry brought."""
        whole = str(data.get("text", self.text))
        rest = whole[len(self.text) :] if whole.startswith(self.text) else ""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.began
        self.text = whole
        self.finish_reason = str(data["finish_reason"])
        self.prompt_tokens = int(data["usage"]["prompt_tokens"])
        self.completion_tokens = int(data["usage"]["completion_tokens"])
        return rest

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def completion(self) -> dict[str, Any]:
        """The whole answer at once."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage()}

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """One chunk of a stream: the role in the first, the finish reason in the last."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        more = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **more}

    def usage_chunk(self) -> dict[str, Any]:
        """What `stream_options.include_usage` asks for: no choices, only the counts."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def _head(self, object_: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": object_,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }
