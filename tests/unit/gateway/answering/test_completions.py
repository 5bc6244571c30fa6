"""A checked request reaches the queue whole."""

from __future__ import annotations

from services.gateway.answering.completions import call_of
from shared.contracts.chat import parse_chat
from shared.contracts.inference import Completion, ModelRef


def test_nothing_that_was_asked_for_is_left_behind() -> None:
    tool = {"type": "function", "function": {"name": "order", "parameters": {"type": "object"}}}
    asked = parse_chat(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "n": 2,
            "tools": [tool],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "seed": 3,
        }
    )
    call = call_of(asked, ModelRef(name="m", base_artifact="sha256:1"))
    assert asked.tools
    for name in Completion.model_fields:
        assert getattr(call, name) == getattr(asked, name), name
