"""OpenAI's shapes of answers, read with the openai client's own types."""

from __future__ import annotations

from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from shared.contracts import answers

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 3}
LOGPROBS = [
    {
        "token": "好",
        "logprob": -0.5,
        "bytes": [229, 165, 189],
        "top": [{"token": "好", "logprob": -0.5, "bytes": [229, 165, 189]}],
    },
    {"token": "的。", "logprob": -1.0, "bytes": [], "top": []},
]


def choice(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "finish_reason": "stop", **more}


def test_a_chat_answer_has_its_choices_its_probabilities_and_what_was_cached() -> None:
    told = [choice("好的。", logprobs=LOGPROBS), choice("no")]
    answer = ChatCompletion.model_validate(
        answers.completion(answers.CHAT, "chatcmpl-1", "m", 7, told, USAGE)
    )
    assert [c.message.content for c in answer.choices] == ["好的。", "no"]
    first = answer.choices[0].logprobs
    assert first is not None
    assert first.content is not None
    token = first.content[0]
    assert (token.token, token.logprob, token.bytes) == ("好", -0.5, [229, 165, 189])
    assert [len(t.top_logprobs) for t in first.content] == [1, 0]
    assert answer.choices[1].logprobs is None
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.total_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (7, 3)


def test_a_text_answer_has_the_older_form_of_probabilities() -> None:
    told = [choice("好的。", logprobs=LOGPROBS)]
    answer = Completion.model_validate(answers.completion(answers.TEXT, "cmpl-1", "m", 7, told, USAGE))
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["好", "的。"], [0, 1])
    assert logprobs.top_logprobs == [{"好": -0.5}, {}]


def test_a_chunk_of_a_chat_has_a_delta_and_of_a_text_its_text() -> None:
    head = answers.head(answers.CHAT, "chatcmpl-1", "m", 7, chunk=True)
    piece = answers.piece(answers.CHAT, 1, "hi", logprobs=LOGPROBS[:1])
    chunk = ChatCompletionChunk.model_validate({**head, "choices": [piece]})
    assert (chunk.choices[0].index, chunk.choices[0].delta.content) == (1, "hi")
    end = answers.piece(answers.CHAT, 1, "", finish_reason="length")
    assert (end["delta"], end["finish_reason"]) == ({}, "length")
    text = answers.piece(answers.TEXT, 0, "hi", logprobs=LOGPROBS, offset=10)
    assert (text["text"], text["logprobs"]["text_offset"]) == ("hi", [10, 11])


def test_calls_of_tools_are_in_the_message_and_in_chunks_by_their_number() -> None:
    call = {"id": "call_1", "name": "look", "arguments": '{"n": 1}'}
    told = [{**choice("", tool_calls=[call]), "finish_reason": "tool_calls"}]
    answer = ChatCompletion.model_validate(
        answers.completion(answers.CHAT, "chatcmpl-1", "m", 7, told, USAGE)
    )
    message = answer.choices[0].message
    assert (message.content, answer.choices[0].finish_reason) == (None, "tool_calls")
    assert message.tool_calls is not None
    assert message.tool_calls[0].model_dump()["function"] == {"name": "look", "arguments": '{"n": 1}'}
    head = answers.head(answers.CHAT, "chatcmpl-1", "m", 7, chunk=True)
    piece = answers.piece(answers.CHAT, 0, "", tool_calls=[call], calls_before=2)
    chunk = ChatCompletionChunk.model_validate({**head, "choices": [piece]})
    assert chunk.choices[0].delta.tool_calls is not None
    assert (chunk.choices[0].delta.tool_calls[0].index, chunk.choices[0].delta.content) == (2, None)
