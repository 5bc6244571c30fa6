"""Log probabilities of an upstream's answers, as the engine tells its own. Pure."""

from __future__ import annotations

from typing import Any

from services.inference.upstream.refusals import is_number, listed, malformed

# What servers write for a probability of nothing, which JSON cannot hold.
LEAST = -9999.0


def chat_logprobs(told: Any) -> list[dict[str, Any]]:
    """Of `{"content": [{"token", "logprob", "bytes", "top_logprobs"}, ...]}`."""
    if told is None:
        return []
    if not isinstance(told, dict):
        raise malformed("logprobs that are no object")
    found = []
    for item in listed(told.get("content"), "log probabilities"):
        if not isinstance(item, dict):
            raise malformed("a log probability that is no object")
        tops = listed(item.get("top_logprobs"), "top_logprobs")
        if not all(isinstance(top, dict) for top in tops):
            raise malformed("top_logprobs that are no objects")
        top = [_item(one.get("token"), one.get("logprob"), one.get("bytes")) for one in tops]
        found.append({**_item(item.get("token"), item.get("logprob"), item.get("bytes")), "top": top})
    return found


def text_logprobs(told: Any) -> list[dict[str, Any]]:
    """Of `{"tokens": [...], "token_logprobs": [...], "top_logprobs": [{token: logprob}, ...]}`."""
    if told is None:
        return []
    if not isinstance(told, dict):
        raise malformed("logprobs that are no object")
    tokens, numbers = listed(told.get("tokens"), "tokens"), listed(told.get("token_logprobs"), "logprobs")
    tops = listed(told.get("top_logprobs"), "top_logprobs") or [{}] * len(tokens)
    if not len(tokens) == len(numbers) == len(tops) or not all(
        top is None or isinstance(top, dict) for top in tops
    ):
        raise malformed("logprobs whose lists do not fit together")
    return [
        {**_item(token, number, None), "top": [_item(t, n, None) for t, n in (top or {}).items()]}
        for token, number, top in zip(tokens, numbers, tops, strict=True)
    ]


def _item(token: Any, logprob: Any, raw: Any) -> dict[str, Any]:
    if not isinstance(token, str):
        raise malformed("a log probability without its token")
    if not is_number(logprob) and logprob is not None:
        raise malformed("a log probability that is no number")
    number = LEAST if logprob is None else max(LEAST, min(0.0, float(logprob)))
    text = token.encode("utf-8", "replace")
    good = isinstance(raw, list) and all(type(byte) is int and 0 <= byte < 256 for byte in raw)
    return {"token": text.decode(), "logprob": number, "bytes": raw if good else list(text)}
