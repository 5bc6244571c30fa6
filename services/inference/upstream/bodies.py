"""From the platform's requests to the bodies of OpenAI's API. Pure.

How tokens are chosen is said where it was asked for, and left to the upstream's model where not, as to a model of our
own; an answer to a text has as many tokens as one of ours, since not every server has OpenAI's default.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shared.contracts.inference import TEXT_TOKENS, ChatMessage, Completion, Embedding, Sampling
from shared.contracts.tools import call_objects, tool_object


def completion(wanted: Completion, model: str) -> dict[str, Any]:
    """The body of a chat or text completion, always streamed: only so is silence told from work."""
    body: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    if wanted.messages:
        body["messages"] = [_message(message) for message in wanted.messages]
        if wanted.tools:
            body |= {
                "tools": [tool_object(tool) for tool in wanted.tools],
                "tool_choice": _choice(wanted.tool_choice),
            }
            body |= {} if wanted.parallel_tool_calls else {"parallel_tool_calls": False}
    else:
        prompts = [given if isinstance(given, str) else list(given) for given in wanted.prompts]
        body["prompt"] = prompts[0] if len(prompts) == 1 else prompts
    if wanted.n > 1:
        body["n"] = wanted.n
    return body | _sampling(wanted.sampling, chat=bool(wanted.messages))


def embedding(wanted: Embedding, inputs: Sequence[str | tuple[int, ...]], model: str) -> dict[str, Any]:
    """The body of a request for the vectors of some of the texts; as numbers, which every server can write."""
    body: dict[str, Any] = {
        "model": model,
        "input": [given if isinstance(given, str) else list(given) for given in inputs],
        "encoding_format": "float",
    }
    return body if wanted.dimensions is None else {**body, "dimensions": wanted.dimensions}


def _sampling(sampling: Sampling, *, chat: bool) -> dict[str, Any]:
    body: dict[str, Any] = {}
    most = sampling.max_tokens if chat else sampling.max_tokens or TEXT_TOKENS
    if most is not None:
        body["max_tokens"] = most
    for name, nothing in (
        ("temperature", None),
        ("top_p", None),
        ("frequency_penalty", 0.0),
        ("presence_penalty", 0.0),
        ("top_k", None),
        ("min_p", None),
        ("repetition_penalty", None),
        ("seed", None),
    ):
        if getattr(sampling, name) != nothing:
            body[name] = getattr(sampling, name)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs:
        named = {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        body |= named if chat else {"logprobs": sampling.top_logprobs}
    return body | (_form(json.loads(sampling.form)) if sampling.form is not None else {})


def _form(form: dict[str, Any]) -> dict[str, Any]:
    """The form of the answer as it was asked for; a JSON schema in the words that every server knows."""
    schema = form.get("structured_outputs", {}).get("json")
    if schema is None:
        return form
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def _message(message: ChatMessage) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = call_objects(message.tool_calls)
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


def _choice(choice: str | None) -> str | dict[str, Any]:
    if choice is None:
        return "auto"
    return choice if choice == "required" else {"type": "function", "function": {"name": choice}}
