"""A request for a task becomes the request for its model; what is wrong is told by its place."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.task import TaskSpec
from shared.errors import HeliuError, InvalidInput
from shared.task.bind import TaskVersion, bind, task_name
from shared.task.check import check

SPEC: dict[str, Any] = {
    "model": "base",
    "system": "Answer in {{ language }}.",
    "prompt": "Sort this{% if hint %} ({{ hint }}){% endif %}: {{ text }}",
    "variables": {
        "text": {"type": "string", "max_length": 100},
        "language": {"type": "enum", "values": ["zh", "en"], "default": "zh"},
        "hint": {"type": "string", "required": False},
        "count": {"type": "integer", "default": 3, "minimum": 1, "maximum": 9},
        "tags": {"type": "list", "required": False, "max_items": 2},
    },
    "decoding": {"temperature": 0, "max_tokens": 20},
    "structured_outputs": {"choice": ["good", "bad"]},
    "guards": {"input": {"pii": {"action": "mask"}, "blocked": ["forbidden"], "max_chars": 90}},
}


def version(**changes: Any) -> TaskVersion:
    spec = TaskSpec.model_validate({**SPEC, **changes})
    check(spec)
    return TaskVersion("task-1", "sort", 2, spec)


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_the_last_user_message_is_the_input_and_the_earlier_ones_stay() -> None:
    body = {
        "model": "task:sort",
        "messages": [user("hi"), {"role": "assistant", "content": "yes"}, user("mail a@b.co")],
        "n": 2,
        "stream": True,
    }
    asked = bind(version(), body)
    assert [(m.role, m.content) for m in asked.messages] == [
        ("system", "Answer in zh."),
        ("user", "hi"),
        ("assistant", "yes"),
        ("user", "Sort this: mail [EMAIL]"),
    ]
    assert (asked.model, asked.n, asked.stream) == ("base", 2, True)
    assert (asked.sampling.temperature, asked.sampling.max_tokens) == (0, 20)
    assert asked.sampling.grammar is not None


def test_variables_by_name_go_before_and_leave_all_messages_as_history() -> None:
    asked = bind(
        version(),
        {"messages": [user("call 13800138000")], "variables": {"text": "x", "language": "en", "hint": "h"}},
    )
    assert [m.content for m in asked.messages] == ["Answer in en.", "call [PHONE]", "Sort this (h): x"]


def test_variables_and_a_message_go_together() -> None:
    asked = bind(
        version(), {"messages": [user([{"type": "text", "text": "x"}])], "variables": {"language": "en"}}
    )
    assert [m.content for m in asked.messages] == ["Answer in en.", "Sort this: x"]


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"variables": {"text": "x", "langauge": "en"}}, "variables.langauge", "did you mean 'language'"),
        ({"variables": {"language": "en"}}, "variables.text", "is missing"),
        ({"variables": {"text": 3}}, "variables.text", "a string, got 3"),
        ({"variables": {"text": "x" * 101}}, "variables.text", "101 characters"),
        ({"variables": {"text": "x", "language": "fr"}}, "variables.language", "one of zh, en"),
        ({"variables": {"text": "x", "count": True}}, "variables.count", "whole number"),
        ({"variables": {"text": "x", "count": 10}}, "variables.count", "9 or less"),
        ({"variables": {"text": "x", "tags": ["a", "b", "c"]}}, "variables.tags", "3 items"),
        ({"variables": {"text": "x", "tags": ["a", 1]}}, "variables.tags", "list of strings"),
        ({"variables": {"text": "a\x00b"}}, "variables.text", "NUL"),
        ({"variables": ["x"]}, "variables", "object"),
        ({"variables": {"text": "x"}, "temperature": 1}, "temperature", "set by sort@2"),
        ({"variables": {"text": "x"}, "max_completion_tokens": 9}, "max_completion_tokens", "set by sort@2"),
        (
            {"variables": {"text": "x"}, "response_format": {"type": "text"}},
            "response_format",
            "set by sort@2",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0]", "user message"),
        ({"messages": [user(None)]}, "messages[0].content", "text"),
        ({"messages": "x"}, "messages", "list"),
        ({"messages": [{"role": "x", "content": "a"}, user("b")]}, "messages[0].role", "role"),
        ({"messages": [{"role": "system", "content": "a"}, user("b")]}, "messages", "sets the system text"),
        ({"messages": [user("forbidden")]}, "variables.text", "input.blocked"),
        ({"messages": [user("forbidden"), user("ok")]}, "messages[0].content", "input.blocked"),
        ({"messages": [user("x" * 95)]}, "variables.text", "input.max_chars"),
        ({"variables": {"text": "x"}, "tempreature": 1}, "tempreature", "unknown parameter"),
    ],
)
def test_what_is_wrong_is_told_by_its_place(body: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(HeliuError, match=said) as caught:
        bind(version(), body)
    assert caught.value.param == param


def test_a_task_without_an_input_variable_says_what_it_takes() -> None:
    two = {"variables": {"a": {}, "b": {}}, "prompt": "{{ a }}{{ b }}", "system": None}
    with pytest.raises(InvalidInput, match="send its variables"):
        bind(version(**two), {"messages": [user("x")]})
    named = version(**two, input="b")
    assert bind(named, {"messages": [user("x")], "variables": {"a": "1"}}).messages[-1].content == "1x"


@pytest.mark.parametrize(("name", "value"), [("logprobs", True), ("tools", [{}])])
def test_ways_around_an_output_guard_are_refused(name: str, value: Any) -> None:
    guarded = version(guards={"output": {"max_chars": 9}})
    with pytest.raises(InvalidInput, match="hold back") as caught:
        bind(guarded, {"variables": {"text": "x"}, name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"prompt": "{{ txet }}"}, "spec.prompt", "did you mean 'text'"),
        ({"system": "{{ x.y }}"}, "spec.system", "attribute"),
        ({"decoding": {"temprature": 1}}, "spec.decoding.temprature", "did you mean 'temperature'"),
        ({"decoding": {"temperature": 9}}, "spec.decoding.temperature", "less than or equal to 2"),
        ({"decoding": {"stream": True}}, "spec.decoding.stream", "no decoding setting"),
        ({"structured_outputs": {"choice": []}}, "spec.structured_outputs.choice", "1 to 500"),
        ({"response_format": {"type": "text"}}, "spec.structured_outputs", "not both"),
        ({"guards": {"output": {"blocked": ["ok", "a*"]}}}, "spec.guards.output.blocked[1]", "empty text"),
        ({"input": "count"}, "spec.input", "type string"),
        (
            {"variables": {"text": {"type": "integer", "default": "x"}}},
            "spec.variables.text.default",
            "whole number",
        ),
        (
            {"retrieval": {"vector_store": "vs", "query": "{{ txt }}"}},
            "spec.retrieval.query",
            "txt",
        ),
    ],
)
def test_a_version_that_would_fail_its_callers_is_refused(
    changes: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        version(**changes)
    assert caught.value.param == param


def test_a_model_name_says_whether_it_is_a_task() -> None:
    assert task_name("base") is None
    assert task_name("task:sort") == ("sort", None)
    assert task_name("task:sort@12") == ("sort", 12)
    for wrong in ("task:", "task:A b", "task:sort@", "task:sort@x", "task:sort@-1", "task:sort@123456789"):
        with pytest.raises(InvalidInput, match="is no task"):
            task_name(wrong)
