"""An answer as it grows from a worker's entries."""

from __future__ import annotations

from typing import Any

from services.gateway.answering.answers import Answer
from shared.contracts import answers

USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "cached_tokens": 0}


def texts(chunks: list[dict[str, Any]]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            found[choice["index"]] = found.get(choice["index"], "") + (choice["delta"].get("content") or "")
    return found


def test_choices_grow_beside_each_other_and_each_ends_once() -> None:
    answer = Answer(answers.CHAT, "m", include_usage=True)
    chunks = list(answer.opening())
    for data in (
        {"choice": 0, "text": "a", "tokens": 1},
        {"choice": 1, "text": "x", "tokens": 2},
        {"choice": 1, "text": "", "tokens": 0, "finish_reason": "stop"},
        {"choice": 0, "text": "b", "tokens": 1},
    ):
        chunks.append(answer.token(data))
    whole = [{"text": "abc", "finish_reason": "length"}, {"text": "x", "finish_reason": "stop"}]
    chunks += answer.done({"choices": whole, "usage": USAGE})
    assert texts(chunks) == {0: "abc", 1: "x"}
    ends = [(c["index"], c["finish_reason"]) for k in chunks for c in k["choices"] if c["finish_reason"]]
    assert ends == [(1, "stop"), (0, "length")]
    assert answer.counts["completion_tokens"] == 4
    assert answer.usage_chunk()["choices"] == []
    assert [c["message"]["content"] for c in answer.whole()["choices"]] == ["abc", "x"]


def test_a_broken_stream_has_counted_the_tokens_that_came() -> None:
    answer = Answer(answers.TEXT, "m")
    assert list(answer.opening()) == []
    assert answer.token({"text": "on ", "tokens": 3})["choices"][0]["text"] == "on "
    assert answer.counts == {"prompt_tokens": 0, "completion_tokens": 3}


def test_chunks_of_one_answer_share_its_id_and_say_null_usage_where_it_was_asked_for() -> None:
    answer = Answer(answers.CHAT, "m", include_usage=True)
    first, second = answer.token({"text": "a"}), answer.token({"text": "b"})
    assert (first["id"], first["usage"], first["object"]) == (second["id"], None, "chat.completion.chunk")
    assert first["id"].startswith("chatcmpl-")
    assert answer.first_token_s is not None
    assert "usage" not in Answer(answers.CHAT, "m").token({"text": "a"})


def test_calls_that_were_streamed_are_not_told_twice() -> None:
    answer = Answer(answers.CHAT, "m")
    calls = [{"id": f"c{n}", "name": "look", "arguments": "{}"} for n in range(2)]
    chunks = [answer.token({"text": "", "tokens": 9, "tool_calls": calls[:1]})]
    chunks += answer.done(
        {"choices": [{"text": "", "finish_reason": "tool_calls", "tool_calls": calls}], "usage": USAGE}
    )
    told = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call["index"], call["id"]) for call in told] == [(0, "c0"), (1, "c1")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
