"""Requests turned into OpenAI's bodies, answers turned into frames, refusals into typed errors. No server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.upstream import bodies, refusals, sse
from services.inference.upstream.answering import Answering
from services.inference.upstream.forwarding import read_vectors
from services.inference.upstream.slots import Slots
from shared.contracts.chat import parse_chat
from shared.contracts.completions import parse_completion
from shared.errors import HeliuError

USER = {"role": "user", "content": "hi"}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def chat(**body: Any) -> dict[str, Any]:
    return bodies.completion(parse_chat({"model": "m", "messages": [USER], **body}), "far")


def test_what_was_not_asked_for_is_left_to_the_upstream() -> None:
    assert chat() == {"model": "far", "messages": [USER], **STREAMED}


def test_a_conversation_with_calls_goes_back_as_it_came() -> None:
    called = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "short"}],
        },
        USER,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
    ]
    sent = bodies.completion(parse_chat({"model": "m", "messages": messages}), "far")["messages"]
    assert sent == [{"role": "developer", "content": "be short"}, *messages[1:]]


def test_a_named_tool_is_asked_for_by_name_and_none_means_no_tools() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    named = {"type": "function", "function": {"name": "f"}}
    assert chat(tools=tools, tool_choice=named)["tool_choice"] == named
    assert chat(tools=tools)["tool_choice"] == "auto"
    assert "tools" not in chat(tools=tools, tool_choice="none")


def test_the_form_of_an_answer_goes_as_it_was_asked_for() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    openai = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    assert chat(response_format=openai)["response_format"] == openai
    assert "response_format" not in chat(response_format={"type": "text"})
    assert chat(structured_outputs={"choice": ["a", "b"]})["structured_outputs"] == {"choice": ["a", "b"]}
    told = chat(structured_outputs={"json": schema})
    assert told["response_format"]["json_schema"]["schema"] == schema
    assert "structured_outputs" not in told


def test_text_prompts_stay_texts_or_tokens() -> None:
    body = bodies.completion(parse_completion({"model": "m", "prompt": [[1, 2], "x"], "logprobs": 2}), "far")
    assert body == {"model": "far", "prompt": [[1, 2], "x"], "max_tokens": 16, "logprobs": 2, **STREAMED}


def answering(count: int = 1, **body: Any) -> Answering:
    asked = parse_chat({"model": "m", "messages": [USER], "n": count, **body})
    return Answering(asked, [f"r.{index}" for index in range(count)])


def delta(content: Any, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, **choice}]}


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "text",
        {"choices": "x"},
        {"choices": [{"index": 0, "delta": {"tool_calls": True}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [7]}}]},
        {"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": 7}}]},
        {"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [{"token": 7}]}}]},
        {"choices": [1]},
        {"choices": [{"index": 1}]},
        {"choices": [{"index": True}]},
        {"choices": [{"index": 0, "delta": "x"}]},
        delta(7),
        delta("x", finish_reason=7),
        delta("x", finish_reason="abort"),
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": -1, "function": {}}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {}}]}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": "7"}},
        {"choices": [], "usage": 7},
        {"error": {"message": "died", "code": 500}},
        {"object": "error", "message": "died", "code": 500},
    ],
)
def test_an_event_of_another_shape_is_an_error_that_may_pass(event: Any) -> None:
    with pytest.raises(HeliuError) as caught:
        answering(logprobs="logprobs" in str(event)).take(event)
    assert (caught.value.code, caught.value.retryable) == ("upstream_failed", True)


def test_a_log_probability_of_nothing_is_the_least() -> None:
    tokens = [{"token": "x", "logprob": number} for number in (None, -20_000, -0.5)]
    (frame,) = answering(logprobs=True).take(delta("x", logprobs={"content": tokens}))
    assert [one["logprob"] for one in frame["logprobs"]] == [-9999.0, -9999.0, -0.5]
    with pytest.raises(HeliuError, match="no number"):
        answering(logprobs=True).take(delta("x", logprobs={"content": [{"token": "x", "logprob": 10**400}]}))


@pytest.mark.parametrize(
    "numbers", [None, [], [1, "2"], [True], [float("nan")], [10**400], [1e39], "!", "AAA="]
)
def test_numbers_that_are_no_vector_are_refused(numbers: Any) -> None:
    with pytest.raises(HeliuError, match="vector"):
        read_vectors({"data": [{"embedding": numbers}]}, 1)


def test_an_error_event_of_a_bad_request_is_a_refusal() -> None:
    error = {"message": "too long", "type": "BadRequestError", "param": "messages", "code": 400}
    with pytest.raises(HeliuError) as caught:
        answering().take({"error": error})
    assert (caught.value.code, caught.value.param) == ("upstream_refused", "messages")


def test_half_a_surrogate_pair_and_a_refusal_become_text() -> None:
    answer = answering()
    answer.take(json.loads('{"choices": [{"index": 0, "delta": {"content": "a\\ud83d"}}]}'))
    answer.take({"choices": [{"index": 0, "delta": {"refusal": "no"}, "finish_reason": "content_filter"}]})
    (done,) = answer.done(queue_s=0.0, first_s=1.0, began=0.5, now=2.0)
    assert (done["text"], done["finish_reason"]) == ("a?no", "content_filter")
    assert done["timings"] == {"queue_s": 0.0, "prefill_s": 0.5, "decode_s": 1.0, "first_token_s": 0.5}
    assert answer.complete


def test_a_choice_without_an_end_leaves_the_answer_incomplete() -> None:
    answer = answering(2)
    answer.take(delta("x", finish_reason="stop"))
    assert not answer.complete
    assert [done["finish_reason"] for done in answer.done(queue_s=0, first_s=None, began=0, now=0)] == [
        "stop",
        "cancelled",
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "index",
                    "delta",
                    "content",
                    "tool_calls",
                    "function",
                    "usage",
                    "logprobs",
                    "error",
                    "message",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def parts(key: str) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from([key, "tokens", "token_logprobs", "top_logprobs"]), json_values)


# Of the right outline, with anything in its places.
answers = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {"index": st.just(0)},
                optional={
                    "delta": st.fixed_dictionaries(
                        {},
                        optional={"content": json_values, "tool_calls": json_values | st.lists(json_values)},
                    ),
                    "text": json_values,
                    "logprobs": json_values | parts("content"),
                    "finish_reason": json_values,
                },
            ),
            max_size=2,
        )
    },
    optional={"usage": json_values, "model": json_values, "error": json_values, "data": json_values},
)


@given(json_values | answers)
def test_whatever_comes_is_an_answer_or_a_typed_error(event: Any) -> None:
    text = Answering(parse_completion({"model": "m", "prompt": "x", "logprobs": 1}), ["r.0"])
    for take in (answering(logprobs=True).take, answering().take_whole, text.take):
        try:
            frames = take(event)
        except HeliuError:
            continue
        json.dumps(frames, allow_nan=False).encode()
    try:
        read_vectors(event, 1)
    except HeliuError:
        return


@pytest.mark.parametrize(
    ("status", "body", "code", "param", "words"),
    [
        (400, {"error": {"message": "bad", "param": "stop"}}, "upstream_refused", "stop", "bad"),
        (
            400,
            {"object": "error", "message": "flat", "param": None, "code": 400},
            "upstream_refused",
            None,
            "flat",
        ),
        (422, {"error": "tgi says", "error_type": "validation"}, "upstream_refused", None, "tgi says"),
        (422, {"detail": [{"loc": ["body", "top_k"], "msg": "wrong"}]}, "upstream_refused", "top_k", "wrong"),
        (400, {"error": {"message": "maximum context length is 8"}}, "context_length_exceeded", None, "8"),
        (413, "plain words", "upstream_refused", None, "plain words"),
        (400, "<html>page</html>", "upstream_refused", None, "did not say why"),
        (401, {"error": {"message": "secret"}}, "upstream_misconfigured", None, "refuses the key"),
        (404, {"error": {"message": "secret"}}, "upstream_misconfigured", None, "answered 404"),
        (408, "", "upstream_failed", None, "408"),
        (429, {"error": {"message": "slow"}}, "upstream_busy", None, "slow"),
        (503, "", "upstream_busy", None, "503"),
        (502, "<html>", "upstream_failed", None, "502"),
        (302, "", "upstream_failed", None, "302"),
    ],
)
def test_each_refusal_is_a_typed_error(
    status: int, body: Any, code: str, param: str | None, words: str
) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = refusals.of_status(status, raw, {}, None)
    assert (error.code, error.param) == (code, param)
    assert words in error.message
    assert "secret" not in error.message
    assert error.retryable == (code in ("upstream_failed", "upstream_busy"))


def test_a_pause_is_a_number_of_seconds_or_a_date() -> None:
    assert refusals.retry_after("7") == 7
    assert refusals.retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now=50) == 10
    assert refusals.retry_after("Thu, 01 Jan 1970 00:00:00 GMT", now=50) == 0
    assert refusals.retry_after("9" * 30) == refusals.MOST_PAUSE_S
    assert [refusals.retry_after(text) for text in (None, "", "soon", "-3")] == [None] * 4


def events(*pieces: bytes) -> list[str]:
    async def read() -> list[str]:
        async def stream() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return [event async for event in sse.events(stream())]

    return asyncio.run(read())


STREAM = (
    b": ping\r\n\r\ndata: one\r\ndata: more\r\nid: 3\r\n\r\nevent: x\ndata:\xe4\xb8\xad\n\ndata: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    marks = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(marks)]
    assert events(*pieces) == ["one\nmore", "中", "[DONE]"]


def test_an_event_that_nothing_ends_is_none() -> None:
    assert events(b"data: one\n\ndata: tw") == ["one"]
    assert events(b"data: [DONE]") == ["[DONE]"]
    with pytest.raises(HeliuError, match="UTF-8"):
        events(b"data: \xff\n\n")


def test_places_go_to_live_requests_first_and_come_back_when_somebody_leaves() -> None:
    async def run() -> list[str]:
        slots, told, hold = Slots(2), [], asyncio.Event()

        async def work(name: str) -> None:
            async with slots.place(live=name.startswith("live")):
                told.append(name)
                await hold.wait()

        names = ["row1", "row2", "row3", "live1", "live2"]
        tasks = {name: asyncio.create_task(work(name)) for name in names}
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (told, slots.busy, slots.waiting) == (["row1", "live1"], 2, 3)
        tasks["row2"].cancel()
        tasks["live1"].cancel()
        hold.set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert (slots.busy, slots.waiting) == (0, 0)
        return told

    assert asyncio.run(run()) == ["row1", "live1", "live2", "row3"]
