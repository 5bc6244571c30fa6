"""Which stored answers a student learns, and as what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.data_governance.distilled import LONGEST, row_of
from services.training.dataset import messages_of
from shared.contracts.stored_chats import StoredBody


def body(choice: dict[str, Any] | None = None, *turns: dict[str, Any]) -> StoredBody:
    return StoredBody.model_validate(
        {
            "created": 1,
            "messages": turns or ({"role": "user", "content": "how long"},),
            "sampling": {},
            "choices": [{"text": "three days", "finish_reason": "stop", **(choice or {})}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
    )


def test_a_row_ends_in_the_answer_which_alone_is_learned_and_training_reads_it() -> None:
    turns = (
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": "退款"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "how long"},
    )
    line, why = row_of(body(None, *turns))
    assert why is None
    messages = json.loads(line)["messages"]
    assert messages[-1] == {"role": "assistant", "content": "three days"}
    read = messages_of(messages, 1, "training_file")
    assert [one.role for one in read] == ["system", "user", "assistant", "user", "assistant"]
    assert [one.trained for one in read if one.role == "assistant"] == [False, True]


CALL = {"id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("choice", "turns", "why"),
    [
        ({"finish_reason": "length"}, (), "cut"),
        ({"finish_reason": "content_filter"}, (), "refused"),
        ({"text": " \n"}, (), "empty"),
        ({"text": "a\x00b"}, (), "no_text"),
        ({"text": "a\ud800"}, (), "no_text"),
        ({"text": "x" * LONGEST}, (), "too_long"),
        ({"text": "", "finish_reason": "tool_calls", "tool_calls": [CALL]}, (), "with_tools"),
        ({}, ({"role": "user", "content": " "},), "empty"),
        ({}, ({"role": "tool", "content": "4", "tool_call_id": "c"},), "with_tools"),
        ({}, ({"role": "assistant", "content": "", "tool_calls": [CALL]},), "with_tools"),
    ],
)
def test_what_teaches_nothing_is_left_out_with_its_reason(
    choice: dict[str, Any], turns: tuple[dict[str, Any], ...], why: str
) -> None:
    assert row_of(body(choice, *turns)) == (b"", why)
