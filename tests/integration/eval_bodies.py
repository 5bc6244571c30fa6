"""Bodies of evals and runs that the tests of evals start from."""

from __future__ import annotations

from typing import Any

ITEM = {
    "type": "object",
    "properties": {
        "question": {"type": "string"},
        "answer": {"type": "string"},
        "topic": {"type": "string"},
    },
    "required": ["question", "answer"],
}
EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


def config(schema: dict[str, Any] = ITEM, sample: bool = True) -> Any:
    return {"type": "custom", "item_schema": schema, "include_sample_schema": sample}


def completions(source: Any, **more: Any) -> Any:
    template = [{"role": "user", "content": "{{item.question}}"}]
    return {
        "type": "completions",
        "model": "far",
        "source": source,
        "input_messages": {"type": "template", "template": template},
        **more,
    }


def given(*items: dict[str, Any], samples: list[str] | None = None) -> Any:
    """A source of items that come along, with their answers where there are any."""
    content: list[dict[str, Any]] = [{"item": item} for item in items]
    for one, text in zip(content, samples or [], strict=False):
        one["sample"] = {"output_text": text}
    return {"type": "file_content", "content": content}
