"""What may be asked of an answer's form, and what is refused by place."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.structured import response_format, structured_outputs
from shared.errors import InvalidInput


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        value = {"type": "object", "properties": {"p": value}, "required": ["p"]}
    return value


def test_text_asks_for_nothing() -> None:
    assert response_format({"type": "text"}) is None


@pytest.mark.parametrize(
    "value",
    [
        {"type": "json_object"},
        schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
        {
            "type": "json_schema",
            "json_schema": {"name": "a", "strict": True, "schema": {"enum": ["是", "否"]}},
        },
    ],
)
def test_a_form_becomes_a_grammar(value: dict[str, Any]) -> None:
    assert response_format(value)


@pytest.mark.parametrize(
    "value", [{"regex": "[0-9]{4}"}, {"choice": ["好", 'a "b"']}, {"json": {"type": "null"}}]
)
def test_the_forms_of_other_servers_become_grammars(value: dict[str, Any]) -> None:
    assert structured_outputs(value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("json", "response_format"),
        ({}, "response_format.type"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": "text", "schema": {}}, "response_format.schema"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "x" * 65}}, "response_format.json_schema.name"),
        (schema([]), "response_format.json_schema.schema"),
        (schema({"type": "objct"}), "response_format.json_schema.schema"),
        (schema({"$ref": "https://example.com/schema"}), "response_format.json_schema.schema"),
        (schema({"$ref": "file:///etc/passwd"}), "response_format.json_schema.schema"),
        (schema({"description": "x" * 70_000}), "response_format.json_schema.schema"),
        (schema(nested(200)), "response_format.json_schema.schema"),
    ],
)
def test_a_wrong_format_is_refused_by_place(value: Any, place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        response_format(value)
    assert caught.value.param == place


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([], "structured_outputs"),
        ({}, "structured_outputs"),
        ({"regex": "a", "choice": ["a"]}, "structured_outputs"),
        ({"grammar": "root ::= x"}, "structured_outputs"),
        ({"regex": "("}, "structured_outputs.regex"),
        ({"regex": ""}, "structured_outputs.regex"),
        ({"regex": "x" * 5000}, "structured_outputs.regex"),
        ({"choice": []}, "structured_outputs.choice"),
        ({"choice": "ab"}, "structured_outputs.choice"),
        ({"choice": ["a", ""]}, "structured_outputs.choice[1]"),
        ({"choice": ["a", 3]}, "structured_outputs.choice[1]"),
    ],
)
def test_a_wrong_structure_is_refused_by_place(value: Any, place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        structured_outputs(value)
    assert caught.value.param == place
