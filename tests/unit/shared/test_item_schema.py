"""The JSON schema of items: what is refused when it is made, and what an item does not keep."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.item_schema import check_schema, fields_of, misfit
from shared.errors import InvalidInput

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "q": {"type": "string", "minLength": 1, "maxLength": 5},
        "n": {"type": "integer", "minimum": 1, "exclusiveMaximum": 4},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 1]}, "maxItems": 2},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "one": {"oneOf": [{"type": "number"}, {"type": "integer"}]},
        "fixed": {"const": True},
        "not": {"not": {"type": "string"}},
    },
    "required": ["q"],
    "additionalProperties": False,
}


def test_an_item_that_fits_is_let_through() -> None:
    check_schema(SCHEMA, "schema")
    assert (
        misfit(SCHEMA, {"q": "好", "n": 3.0, "tags": ["a", 1], "either": None, "one": 1.5, "fixed": True})
        is None
    )
    assert misfit({"properties": {"x": True}}, {"y": object}) is None


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({}, "item.q is missing; there is nothing"),
        ({"q": 1}, "item.q must be of the type string, got 1"),
        ({"q": ""}, "item.q has 0 characters; it has 1 at least"),
        ({"q": "abcdef"}, "it has 5 at most"),
        ({"q": "a", "n": True}, "item.n must be of the type integer"),
        ({"q": "a", "n": 1.5}, "item.n must be of the type integer"),
        ({"q": "a", "n": 0}, "item.n must be at least 1, got 0"),
        ({"q": "a", "n": 4}, "item.n must be under 4"),
        ({"q": "a", "tags": ["c"]}, "item.tags[0] must be one of"),
        ({"q": "a", "tags": [True]}, "item.tags[0] must be one of"),
        ({"q": "a", "tags": ["a", "b", "a"]}, "item.tags has 3 items; it has 2 at most"),
        ({"q": "a", "either": 1}, "fits 0 of the schemas of anyOf"),
        ({"q": "a", "one": 2}, "fits 2 of the schemas of oneOf"),
        ({"q": "a", "fixed": 1}, "item.fixed must be True"),
        ({"q": "a", "not": "x"}, "item.not is what the schema rules out"),
        ({"q": "a", "tag": 1}, "item.tag is not in the schema; did you mean 'tags'?"),
        ([], "item must be of the type object"),
    ],
)
def test_an_item_that_does_not_fit_is_told_with_its_place(item: Any, words: str) -> None:
    told = misfit(SCHEMA, item)
    assert told is not None
    assert words in told


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "text"}, "schema.type is 'text'"),
        ({"properties": []}, "schema.properties must be an object"),
        ({"properties": {"a": {"typ": "string"}}}, "did you mean 'type'?"),
        ({"$ref": "#/a"}, "'$ref', which is not served"),
        ({"required": "q"}, "schema.required must be a list of names"),
        ({"enum": []}, "schema.enum must be a list of one value or more"),
        ({"minimum": "1"}, "schema.minimum must be a number"),
        ({"maxItems": -1}, "schema.maxItems must be a whole number"),
        ({"anyOf": {}}, "schema.anyOf must be a list"),
        ({"items": 3}, "schema.items must be a JSON schema"),
        ([], "schema must be a JSON schema"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place(schema: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as told:
        check_schema(schema, "schema")
    assert words in told.value.message


def test_a_schema_cannot_run_away() -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"items": deep}
    with pytest.raises(InvalidInput, match="deeper than 16"):
        check_schema(deep, "schema")
    with pytest.raises(InvalidInput, match="has 601 schemas and 0 values"):
        check_schema({"anyOf": [{}] * 600}, "schema")
    with pytest.raises(InvalidInput, match="10001 values in enums"):
        check_schema({"enum": list(range(10_001))}, "schema")
    check_schema({"enum": list(range(10_000))}, "schema")


def test_fields_are_closed_unless_the_schema_says_otherwise() -> None:
    assert fields_of({"properties": {"a": {}, "b": {}}}) == (["a", "b"], False)
    assert fields_of({"properties": {"a": {}}, "additionalProperties": True}) == (["a"], True)
    assert fields_of({"type": "object"}) == (None, True)
