"""Calls of tools, as three families of models write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.inference.engine.grammar import Constraint, Vocabulary
from services.inference.tool_calls import ToolForm, ToolReader, form_of, grammar
from shared.errors import InvalidInput
from tests.unit.inference.tiny_models import build_tokenizer

WEATHER = {
    "name": "weather",
    "parameters": json.dumps(
        {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        }
    ),
}
CLOCK = {
    "name": "clock",
    "parameters": json.dumps({"type": "object", "properties": {}, "additionalProperties": False}),
}
ONE = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
TWO = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


def read(form: ToolForm, text: str, size: int) -> tuple[str, list[tuple[str, Any]]]:
    reader = ToolReader(form)
    said, found = "", []
    for start in range(0, len(text), size):
        some, calls = reader.push(text[start : start + size])
        said, found = said + some, found + calls
    some, calls = reader.finish()
    assert reader.calls == found + calls
    assert len({call.id for call in reader.calls}) == len(reader.calls)
    return said + some, [(call.name, json.loads(call.arguments)) for call in reader.calls]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("form", "text", "said", "calls"),
    [
        (ToolForm.TAGGED, ONE, "", [("weather", {"city": "北京"})]),
        (
            ToolForm.TAGGED,
            f"Let me see.\n{ONE}\n{TWO}",
            "Let me see.\n",
            [("weather", {"city": "北京"}), ("clock", {})],
        ),
        (ToolForm.TAGGED, "1 < 2 and <tool", "1 < 2 and <tool", []),
        (ToolForm.TAGGED, "<tool_call>not json</tool_call>!", "<tool_call>not json</tool_call>!", []),
        (ToolForm.TAGGED, ONE.removesuffix("\n</tool_call>"), "", [("weather", {"city": "北京"})]),
        (ToolForm.LISTED, '[{"name": "clock", "arguments": {}}]', "", [("clock", {})]),
        (ToolForm.LISTED, '[TOOL_CALLS] [{"name": "clock", "arguments": {}}]', "", [("clock", {})]),
        (ToolForm.LISTED, "[1, 2] is a list", "[1, 2] is a list", []),
        (ToolForm.BARE, '{"name": "weather", "parameters": {"city": "x"}}', "", [("weather", {"city": "x"})]),
        (ToolForm.BARE, '{"name": "weather"}', '{"name": "weather"}', []),
        (ToolForm.BARE, 'It is {"name": 1}', 'It is {"name": 1}', []),
    ],
)
def test_an_answer_is_split_into_what_is_said_and_what_is_called(
    form: ToolForm, text: str, said: str, calls: list[tuple[str, Any]], size: int
) -> None:
    assert read(form, text, size) == (said, calls)


def test_what_is_said_before_a_call_comes_at_once() -> None:
    reader = ToolReader(ToolForm.TAGGED)
    assert reader.push("One moment. <tool") == ("One moment. ", [])
    assert reader.push("box") == ("<toolbox", [])


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{% if tools %}<tool_call>{% endif %}", ToolForm.TAGGED),
        ("{% if tools %}[TOOL_CALLS]{% endif %}", ToolForm.LISTED),
        ('{% if tools %}{"name": .., "parameters": ..}{% endif %}', ToolForm.BARE),
    ],
)
def test_the_template_tells_the_form(template: str, form: ToolForm) -> None:
    assert form_of(template) is form


@pytest.mark.parametrize("template", [None, "{{ messages }}", "{% if tools %}~call~{% endif %}"])
def test_a_template_without_a_known_form_is_refused(template: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        form_of(template)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")


@pytest.mark.parametrize("form", list(ToolForm))
def test_a_grammar_takes_calls_of_its_tools_and_nothing_else(form: ToolForm) -> None:
    tokenizer = build_tokenizer()
    vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
    made = grammar(form, [WEATHER, CLOCK], named="weather", parallel=True, special={})
    call = {"name": "weather", form.arguments: {"city": "京"}}
    good = {
        ToolForm.TAGGED: f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>",
        ToolForm.LISTED: f"[TOOL_CALLS]{json.dumps([call], ensure_ascii=False)}",
        ToolForm.BARE: json.dumps(call, ensure_ascii=False),
    }[form]

    def takes(text: str) -> bool:
        constraint = Constraint(vocabulary, made)
        return all(constraint.matcher.consume_token(token) for token in tokenizer.encode(text)) and bool(
            constraint.matcher.is_accepting()
        )

    assert takes(good)
    assert read(form, good, 7)[1] == [("weather", {"city": "京"})]
    assert not takes(good.replace("weather", "clock"))
    assert not takes(good.replace('"city"', '"town"'))
    assert not takes("Sure.")
