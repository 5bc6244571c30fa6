"""Answers in OpenAI's shapes, for the live routes and for the rows of a batch alike. Pure.

A choice is what the engine says of it: {"text", "finish_reason"} and, where asked for, "logprobs": a list of
{"token", "logprob", "bytes", "top": [{"token", "logprob", "bytes"}, ...]}; with tools, "tool_calls": a list of
{"id", "name", "arguments"}. `usage` is its
{"prompt_tokens", "completion_tokens", "cached_tokens"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"

Choice = Mapping[str, Any]


def answer_id(endpoint: str, request_id: str) -> str:
    return f"{'chatcmpl' if endpoint == CHAT else 'cmpl'}-{request_id}"


def head(endpoint: str, answer: str, model: str, created: int, *, chunk: bool = False) -> dict[str, Any]:
    """What every answer and every chunk of one begins with."""
    kind = "text_completion"
    if endpoint == CHAT:
        kind = "chat.completion.chunk" if chunk else "chat.completion"
    return {
        "id": answer,
        "object": kind,
        "created": created,
        "model": model,
        "system_fingerprint": None,
    }


def completion(
    endpoint: str, answer: str, model: str, created: int, choices: Sequence[Choice], usage: Mapping[str, int]
) -> dict[str, Any]:
    """A whole answer."""
    return {
        **head(endpoint, answer, model, created),
        "choices": [whole(endpoint, index, choice) for index, choice in enumerate(choices)],
        "usage": usage_object(usage),
    }


def whole(endpoint: str, index: int, choice: Choice) -> dict[str, Any]:
    """One choice of a whole answer."""
    told = logprobs_object(endpoint, choice.get("logprobs"))
    ended = {"index": index, "logprobs": told, "finish_reason": choice["finish_reason"]}
    if endpoint == CHAT:
        message: dict[str, Any] = {"role": "assistant", "content": choice["text"], "refusal": None}
        if choice.get("tool_calls"):
            message["content"] = choice["text"] or None
            message["tool_calls"] = [_call(call) for call in choice["tool_calls"]]
        return {**ended, "message": message}
    return {**ended, "text": choice["text"]}


def piece(
    endpoint: str,
    index: int,
    text: str,
    *,
    finish_reason: str | None = None,
    logprobs: Sequence[Mapping[str, Any]] | None = None,
    tool_calls: Sequence[Mapping[str, Any]] = (),
    offset: int = 0,
    calls_before: int = 0,
) -> dict[str, Any]:
    """One choice of a chunk: new text or calls, or none in the last one, which has the finish reason.

    `offset` is the number of characters before it, `calls_before` that of the calls.
    """
    told = logprobs_object(endpoint, logprobs, offset)
    ended = {"index": index, "logprobs": told, "finish_reason": finish_reason}
    if endpoint == CHAT:
        delta: dict[str, Any] = {"content": text} if text or logprobs else {}
        if tool_calls:
            delta["tool_calls"] = [
                {"index": index, **_call(call)} for index, call in enumerate(tool_calls, calls_before)
            ]
        return {**ended, "delta": delta}
    return {**ended, "text": text}


def usage_object(usage: Mapping[str, int]) -> dict[str, Any]:
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": usage.get("cached_tokens", 0)},
    }


def logprobs_object(
    endpoint: str, logprobs: Sequence[Mapping[str, Any]] | None, offset: int = 0
) -> dict[str, Any] | None:
    """Log probabilities as chat has them, or as completions had them before."""
    if logprobs is None:
        return None
    if endpoint == CHAT:
        content = [
            {**_token(item), "top_logprobs": [_token(other) for other in item["top"]]} for item in logprobs
        ]
        return {"content": content, "refusal": None}
    offsets = []
    for item in logprobs:
        offsets.append(offset)
        offset += len(item["token"])
    return {
        "tokens": [item["token"] for item in logprobs],
        "token_logprobs": [item["logprob"] for item in logprobs],
        "top_logprobs": [{other["token"]: other["logprob"] for other in item["top"]} for item in logprobs],
        "text_offset": offsets,
    }


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": call["name"], "arguments": call["arguments"]},
    }


def _token(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": item["token"], "logprob": item["logprob"], "bytes": item["bytes"]}
