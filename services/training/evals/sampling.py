"""What is asked of a model for each item, as rows of a batch, and what its answers come to. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from services.training.evals.items import Item
from shared.contracts.chat import parse_chat
from shared.contracts.classifications import parse_classification
from shared.contracts.eval_items import StoredCompletions
from shared.contracts.evals import (
    Classifications,
    Completions,
    DataSource,
    ItemMessages,
    Jsonl,
    Ranking,
    Responses,
    TemplateMessages,
)
from shared.contracts.inference import Endpoint
from shared.contracts.rerank import parse_rerank
from shared.contracts.task import PREFIX
from shared.errors import HeliuError, InvalidInput
from shared.task.item_template import look_up, render_item

Asking = Completions | Responses | Classifications | Ranking
Check = Callable[[dict[str, Any]], None]
CHAT_ENDPOINT: Endpoint = "/v1/chat/completions"
_SOURCE: TypeAdapter[Jsonl | Asking] = TypeAdapter(DataSource)


@dataclass(frozen=True)
class Sample:
    """An answer as templates see it (`values`), what was asked, and why there is none where there is none."""

    values: dict[str, Any]
    asked: list[dict[str, str]]
    error: dict[str, str] | None = None


def source_of(stored: Mapping[str, Any]) -> Jsonl | Asking:
    return _SOURCE.validate_python(dict(stored))


def endpoint(source: Asking) -> Endpoint:
    if isinstance(source, Classifications):
        return "/v1/classifications"
    return "/v1/rerank" if isinstance(source, Ranking) else CHAT_ENDPOINT


def request(source: Asking, item: Item, check: Check) -> dict[str, Any]:
    """The body that is asked for an item, checked; `check` does it for a task. Raises InvalidInput where the item
    makes none: one wrong line would be the end of its whole batch."""
    values = {"item": item.item}
    match source:
        case Classifications():
            text = render_item(source.input, values, "data_source.input")
            body = {"model": source.model, "input": text, "top_k": source.top_k, "truncate_prompt_tokens": -1}
            parse_classification(body)
        case Ranking():
            body = {
                "model": source.model,
                "query": render_item(source.query, values, "data_source.query"),
                "documents": look_up(source.documents, item.item, "data_source.documents"),
                "return_documents": False,
            }
            parse_rerank(body)
        case _:
            body = _chat(source, item.item, values)
            if source.model.startswith(PREFIX):
                check(body)
            else:
                parse_chat(body)
    return body


def _chat(
    source: Completions | Responses, item: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    body: dict[str, Any] = {"model": source.model}
    match source.input_messages:
        case TemplateMessages(template=template):
            place = "data_source.input_messages.template"
            body["messages"] = [
                {"role": one.role, "content": render_item(one.text, values, f"{place}[{index}].content")}
                for index, one in enumerate(template)
            ]
        case ItemMessages(item_reference=reference):
            body["messages"] = _messages(look_up(reference, item, "data_source.input_messages"), reference)
    if source.variables:
        body["variables"] = {
            name: _variable(template, item, values, f"data_source.variables.{name}")
            for name, template in source.variables.items()
        }
    settings = _settings(source)
    if isinstance(source.source, StoredCompletions) and "tools" not in settings and item.get("tools"):
        # Asked again as it was asked.
        settings["tools"] = item["tools"]
    return body | settings


def _messages(value: Any, reference: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(
            f"{reference} is no list of messages", code="invalid_item", param="data_source.input_messages"
        )
    return [
        {key: one[key] for key in one if key != "type"} if isinstance(one, dict) else one for one in value
    ]


def _variable(template: str, item: Mapping[str, Any], values: Mapping[str, Any], place: str) -> Any:
    """A template that is one reference alone is the value itself, so that numbers and lists stay what they are."""
    inner = template.strip()
    if inner.startswith("{{") and inner.endswith("}}"):
        reference = inner[2:-2].strip()
        if reference.replace(".", "").replace("_", "").isalnum() and reference.startswith("item."):
            return look_up(reference, item, place)
    return render_item(template, values, place)


def _settings(source: Completions | Responses) -> dict[str, Any]:
    given = source.sampling_params
    if given is None:
        return {}
    told = given.model_dump(exclude_none=True)
    text = told.pop("text", None)
    if text and text.get("format"):
        told["response_format"] = _response_format(text["format"])
    return told


def _response_format(form: dict[str, Any]) -> dict[str, Any]:
    """A response's `text.format` as a chat has it."""
    if form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {k: v for k, v in form.items() if k != "type"}}


def asked_of(source: Jsonl | Asking, item: Item, check: Check) -> list[dict[str, str]]:
    """The messages that were sent, as an output item shows them; empty where there were none or the item made none."""
    if isinstance(source, Jsonl):
        return _shown(item.item["input"]) if isinstance(source.source, StoredCompletions) else []
    try:
        body = request(source, item, check)
    except HeliuError:
        return []
    if "messages" not in body:
        text = str(body.get("query") or body.get("input") or "")
        return [{"role": "user", "content": text}]
    return _shown(body["messages"])


def _shown(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{"role": str(m.get("role")), "content": _plain(m.get("content"))} for m in messages]


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def sample_of(source: Jsonl | Asking, item: Item, row: Mapping[str, Any] | None, check: Check) -> Sample:
    """The sample of an item: what came with it, or what its row of the batch (a line of its output) says."""
    if isinstance(source, Jsonl):
        return Sample(with_json(item.sample or {}), asked_of(source, item, check))
    asked = asked_of(source, item, check)
    if row is None:
        try:
            request(source, item, check)
        except HeliuError as exc:
            return Sample({}, asked, {"code": exc.code, "message": exc.message})
        return Sample({}, asked, {"code": "no_answer", "message": "the batch has no answer to this item"})
    if row.get("error"):
        told = row["error"]
        return Sample({}, asked, {"code": str(told["code"]), "message": str(told["message"])})
    body = row["response"]["body"]
    return Sample(_values(source, body), asked)


def _values(source: Asking, body: Mapping[str, Any]) -> dict[str, Any]:
    head = {"model": source.model, "usage": body.get("usage") or {}}
    if isinstance(source, Classifications):
        told = body["data"][0]
        return {
            **head,
            "output_text": told["label"] if told["label"] is not None else json.dumps(told["score"]),
            "output_json": told,
            "finish_reason": "stop",
        }
    if isinstance(source, Ranking):
        ordered = body["results"]
        return {**head, "output_text": json.dumps(ordered), "output_json": ordered, "finish_reason": "stop"}
    return chat_values(source.model, body)


def chat_values(model: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What templates see of a chat's answer, in OpenAI's shape: its first choice."""
    choice = body["choices"][0]
    message = choice["message"]
    return with_json(
        {
            "model": model,
            "usage": body.get("usage") or {},
            "output_text": message.get("content") or "",
            "output_tools": message.get("tool_calls") or [],
            "finish_reason": choice["finish_reason"],
            "choices": body["choices"],
        }
    )


def with_json(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The sample with its text parsed, where it is JSON: `output_json`, else null."""
    if "output_json" in sample:
        return dict(sample)
    try:
        parsed = json.loads(sample.get("output_text") or "")
    except (ValueError, RecursionError, TypeError):
        parsed = None
    return {**sample, "output_json": parsed}
