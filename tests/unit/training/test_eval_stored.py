"""Stored chats as items of a run, and asked again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.training.evals.items import items_of
from services.training.evals.sampling import request, sample_of, source_of
from services.training.evals.stored import item_of
from shared.contracts.eval_items import StoredConfig
from shared.contracts.stored_chats import StoredBody

CONFIG = StoredConfig(type="logs")
TOOL = {"name": "f", "description": "finds", "parameters": '{"type": "object"}'}


def body(text: str = "three days", **more: Any) -> StoredBody:
    return StoredBody.model_validate(
        {
            "created": 7,
            "messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "how long"}],
            "sampling": {},
            "choices": [{"text": text, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            **more,
        }
    )


def nothing(_: dict[str, Any]) -> None:
    raise AssertionError("no task was named")


def test_a_chat_is_an_item_whose_sample_is_its_answer() -> None:
    raw = item_of("chatcmpl-1", "teacher", {"use": "x"}, body('{"days": 3}'))
    (item,) = items_of([raw], CONFIG, slices=[], cluster=None)
    assert item.item["metadata"] == {"use": "x"}
    sample = sample_of(
        source_of({"type": "jsonl", "source": {"type": "stored_completions"}}), item, None, nothing
    )
    assert (sample.values["output_json"], sample.values["model"]) == ({"days": 3}, "teacher")
    assert sample.values["usage"]["total_tokens"] == 5
    assert sample.asked == [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "how long"},
    ]


def test_a_chat_with_tools_is_asked_again_with_its_own_messages_and_tools() -> None:
    call = {"id": "c1", "name": "f", "arguments": "{}"}
    turns = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ]
    (item,) = items_of(
        [item_of("chatcmpl-1", "t", {}, body(messages=turns, tools=[TOOL]))], CONFIG, slices=[], cluster=None
    )
    source: Any = source_of(
        {
            "type": "completions",
            "model": "student",
            "source": {"type": "stored_completions"},
            "input_messages": {"type": "item_reference", "item_reference": "item.input"},
        }
    )
    asked = request(source, item, nothing)
    assert asked["messages"][1]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert asked["messages"][2]["tool_call_id"] == "c1"
    assert asked["tools"][0]["function"]["name"] == "f"


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
def test_what_no_column_holds_is_replaced(text: str) -> None:
    item, sample = item_of("chatcmpl-1", "t", {}, body(text))
    assert item["output_text"] == "a�b"
    assert sample is not None
    json.dumps(sample, ensure_ascii=False).encode()


def test_the_language_of_an_item_is_that_of_what_was_said() -> None:
    turns = [{"role": "user", "content": "退款"}]
    raw = item_of(
        "chatcmpl-0123456789abcdef",
        "some-long-latin-name",
        {"use": "english words"},
        body("三天", messages=turns),
    )
    (item,) = items_of([raw], CONFIG, slices=[], cluster=None)
    assert item.slices["language"] == "chinese"
