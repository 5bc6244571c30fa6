"""The body of a chat request: what is taken, what is refused by place, and that nothing is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.chat import UNSERVED, parse_chat
from shared.contracts.decoding import ABOUT, check_text
from shared.contracts.generation_config import NAMES
from shared.contracts.registry import CALLS, JOBS, parse_job
from shared.errors import InvalidInput

SAY = [{"role": "user", "content": "你好"}]


def call(arguments: str) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}


def tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "parameters": parameters}}


ARGUMENTS = "messages[0].tool_calls[0].function.arguments"
CALL = call('{"n": 1}')
TOOL = tool({"type": "object", "properties": {"n": {"type": "integer"}}})


def body(**values: Any) -> dict[str, Any]:
    return {"model": "m", "messages": SAY, **values}


def refusal(**values: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse_chat(body(**values))
    return caught.value


def test_a_plain_request_leaves_decoding_to_the_model() -> None:
    request = parse_chat(body())
    assert request.model == "m"
    assert [(m.role, m.content) for m in request.messages] == [("user", "你好")]
    assert {name: getattr(request.sampling, name) for name in NAMES} == dict.fromkeys(NAMES)
    assert (request.stream, request.include_usage) == (False, False)


def test_content_in_parts_is_put_together() -> None:
    parts = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
    request = parse_chat(body(messages=[{"role": "user", "content": parts}]))
    assert request.messages[0].content == "你好"


def test_either_name_of_the_limit_is_taken_and_both_are_refused() -> None:
    assert parse_chat(body(max_tokens=5)).sampling.max_tokens == 5
    assert parse_chat(body(max_completion_tokens=6)).sampling.max_tokens == 6
    assert refusal(max_tokens=5, max_completion_tokens=5).param == "max_tokens"


def test_a_stop_may_be_one_text_or_up_to_four() -> None:
    assert parse_chat(body(stop="END")).sampling.stop == ("END",)
    assert parse_chat(body(stop=["a", "b"])).sampling.stop == ("a", "b")
    assert parse_chat(body(stop=None)).sampling.stop == ()
    for bad in ("", [""], ["a"] * 5, ["x" * 513]):
        assert refusal(stop=bad).param == "stop"


def test_how_to_decode_is_read_as_it_was_sent() -> None:
    values = {"min_p": 0.1, "frequency_penalty": 1, "presence_penalty": -0.5, "repetition_penalty": 1.2}
    sampling = parse_chat(body(n=3, logit_bias={"7": -100, "12": 0.5}, **values)).sampling
    assert {name: getattr(sampling, name) for name in values} == values
    assert sampling.logit_bias == ((7, -100.0), (12, 0.5))
    assert parse_chat(body(n=3)).n == 3


def test_log_probabilities_are_asked_for_with_or_without_the_likeliest() -> None:
    told = [
        parse_chat(body(**asked)).sampling
        for asked in ({}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 4})
    ]
    assert [(s.logprobs, s.top_logprobs) for s in told] == [(False, 0), (True, 0), (True, 4)]


def test_tools_are_read_and_calls_that_are_sent_back_too() -> None:
    turns = [*SAY, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    turns.append({"role": "tool", "content": "3", "tool_call_id": "c1"})
    named = {"type": "function", "function": {"name": "look"}}
    request = parse_chat(body(messages=turns, tools=[TOOL], tool_choice=named, parallel_tool_calls=False))
    assert [t.name for t in request.tools] == ["look"]
    assert (request.tool_choice, request.parallel_tool_calls) == ("look", False)
    assert request.messages[1].tool_calls[0].arguments == '{"n": 1}'
    assert request.messages[2].tool_call_id == "c1"
    assert parse_chat(body(tools=[TOOL])).tool_choice is None
    assert parse_chat(body(tools=[TOOL], tool_choice="none")).tools == ()


def test_a_form_of_the_answer_becomes_a_grammar() -> None:
    assert parse_chat(body(response_format={"type": "text"})).sampling.grammar is None
    by_format = parse_chat(body(response_format={"type": "json_object"})).sampling.grammar
    by_schema = parse_chat(body(structured_outputs={"json": {"type": "object"}})).sampling.grammar
    assert by_format is not None
    assert by_format == by_schema


@pytest.mark.parametrize("name", sorted(UNSERVED))
def test_what_is_not_served_is_refused_by_name_unless_it_asks_for_nothing(name: str) -> None:
    for harmless in UNSERVED[name]:
        parse_chat(body(**{name: harmless}))
    error = refusal(**{name: {"surely": ["something"]}})
    assert (error.code, error.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize("name", sorted(ABOUT))
def test_what_is_said_about_the_request_changes_nothing(name: str) -> None:
    said = parse_chat(body(**{name: "anything"}))
    assert said.model_copy(update={"user": None}) == parse_chat(body())


def test_whom_a_request_is_for_is_kept_whatever_its_characters() -> None:
    said = {user: parse_chat(body(user=user)).user for user in ("ann", "\ud800", "")}
    assert said == {"ann": "ann", "\ud800": "\\ud800", "": None}
    assert parse_chat(body(user=7)).user is None


def test_an_unknown_parameter_is_refused_with_the_nearest_name() -> None:
    error = refusal(temprature=0)
    assert (error.code, error.param) == ("unknown_parameter", "temprature")
    assert "did you mean 'temperature'" in error.message


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [*SAY, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [*SAY, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "c"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [call("[]")]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [call("{")]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [tool({"type": "array"})]}, "tools[0].function.parameters"),
        ({"tools": [tool({"properties": {"a": {"type": "objct"}}})]}, "tools[0].function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice",
        ),
        (
            {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}},
            "tool_choice",
        ),
        ({"messages": [{"role": "user", "content": "nul \x00"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "half \ud83d"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "extra": 1}]}, "messages[0].extra"),
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"n": 1_000_000}, "n"),
        ({"n": 0}, "n"),
        ({"min_p": -0.1}, "min_p"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": "much"}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"5": True}}, "logit_bias.5"),
        ({"logit_bias": {str(i): 0 for i in range(2000)}}, "logit_bias"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
        ),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(values: dict[str, Any], place: str) -> None:
    error = refusal(**values)
    assert error.param == place
    assert error.message


@pytest.mark.parametrize("not_a_body", [[], "text", 3, None])
def test_a_body_that_is_no_object_is_refused(not_a_body: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_chat(not_a_body)


@pytest.mark.parametrize("text", ["", "合流", "\n\t", "😀"])
def test_text_that_postgres_and_utf8_hold_is_taken(text: str) -> None:
    check_text(text, "x")


def test_every_contract_is_known_by_its_own_name() -> None:
    assert all(contract.kind == kind for kind, contract in JOBS.items())
    assert all(contract.name == name for name, contract in CALLS.items())
    prefixes = [contract.id_prefix for contract in JOBS.values()]
    assert all(prefix.endswith(("_", "-")) for prefix in prefixes)


def test_a_stored_payload_is_read_by_its_kind_or_refused_by_name() -> None:
    assert parse_job("noop", {"seconds": 1}).dump() == {"seconds": 1.0, "steps": 0, "outcome": "succeed"}
    with pytest.raises(InvalidInput, match="no job is of kind 'nop'"):
        parse_job("nop", {})
    with pytest.raises(InvalidInput, match="surprise"):
        parse_job("noop", {"surprise": 1})
