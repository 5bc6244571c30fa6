"""What is kept of a chat that is stored, and what chooses some of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.contracts.chat import parse_chat
from shared.contracts.stored_chats import LARGEST, ChatFilter, StoredBody, body_of, check_size, names_of
from shared.errors import InvalidInput


def asked(**more: Any) -> Any:
    return parse_chat({"model": "m", "messages": [{"role": "user", "content": "hi"}], **more})


def test_a_body_is_read_back_without_probabilities_and_grammar() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    chat = asked(tools=[tool], temperature=0.5)
    choice = {"text": "a\ud800\x00", "finish_reason": "stop", "logprobs": [{"token": "a"}]}
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    read = StoredBody.model_validate(
        json.loads(json.dumps(body_of(chat, created=1, choices=[choice], usage=usage)))
    )
    assert read.choices == [{"text": "a\ud800\x00", "finish_reason": "stop"}]
    assert (read.messages, read.tools, read.sampling.temperature) == (chat.messages, chat.tools, 0.5)
    formed = body_of(asked(response_format=form), created=1, choices=[choice], usage=usage)
    assert "grammar" not in formed["sampling"]
    assert json.loads(formed["sampling"]["form"])["response_format"] == form


@pytest.mark.parametrize(
    ("shown", "model", "names"),
    [
        ("echo", "echo", ("echo",)),
        ("task:refunds@3", "echo", ("task:refunds@3", "task:refunds", "echo")),
        ("registry:desk@1", "desk-v1", ("registry:desk@1", "registry:desk", "desk-v1")),
    ],
)
def test_a_chat_is_looked_for_by_each_of_its_names(shown: str, model: str, names: tuple[str, ...]) -> None:
    assert names_of(shown, model) == names


def test_too_large_a_chat_and_a_time_that_runs_backward_are_refused() -> None:
    check_size(asked())
    with pytest.raises(InvalidInput, match="at most") as large:
        check_size(asked(messages=[{"role": "user", "content": "字" * (LARGEST // 3)}]))
    assert large.value.param == "store"
    with pytest.raises(InvalidInput, match="behind"):
        ChatFilter(created_after=2, created_before=1)
