"""Hundreds of wrong recipes, made from right ones: each gets one error that says where, and what would be right."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from shared.contracts.recipe_text import MAX_RECIPE_BYTES, InvalidRecipe, parse_recipe
from shared.contracts.steps.describe import operators

REQUIRED: dict[str, dict[str, Any]] = {
    "blocked_words": {"words": ["x"]},
    "map_labels": {"labels": {"a": "b"}},
    "map_fields": {"changes": [{"do": "cast", "field": "a", "type": "int"}]},
    "check_rows": {"checks": [{"field": "a", "min": 1}]},
}
# What an error says when it says what would be right.
MEND = re.compile(
    r"did you mean|known are|should be|should have|should match|must come before|keep one|give |needs|at most|at least"
    r"|required|nested deeper|is not UTF-8|line \d+|write the value out|is an object|or an object|go together|above"
    r"|finite|choose another|is blank|only there|add it there|asks for nothing|is for |one of them|two checks"
    r"|linear time|is missing|say `version"
    r"|neither YAML nor JSON|there are no votes|without one it has no place|not allowed"
)
WRONG: dict[str, Any] = {
    "null": None, "text": "abc", "number": 12345.678, "list": [1, [2]], "object": {"k": {"l": 1}}, "nan": float("nan"),
    "infinite": float("inf"), "negative": -5, "huge": 10**40,
}  # fmt: skip


def _steps() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for about in operators():
        optional = {param["name"]: param["default"] for param in about["params"] if not param["required"]}
        required = {param["name"] for param in about["params"] if param["required"]}
        if required <= set(REQUIRED.get(about["op"], {})):
            found.append((about["op"], {**optional, **REQUIRED.get(about["op"], {})}))
    return found


def _accepted(recipe: Any) -> bool:
    try:
        parse_recipe(recipe)
    except InvalidRecipe:
        return False
    return True


def _wrong_values() -> Iterator[tuple[str, Any]]:
    """Every parameter of every operator, and every key of a recipe, with values of wrong types and sizes."""
    for op, params in _steps():
        for name in params:
            for what, value in WRONG.items():
                yield f"{op}.{name}={what}", {"steps": [{"op": op, "params": {**params, name: value}}]}
        for name in list(params) or ["params"]:
            yield f"{op}.{name}x", {"steps": [{"op": op, "params": {f"{name}x": 1}}]}
        yield f"{op[:-1]}", {"steps": [{"op": op[:-1], "params": params}]}
        yield f"{op} version", {"steps": [{"op": op, "version": 99, "params": params}]}
        yield f"{op} on_drop", {"steps": [{"op": op, "on_drop": "maybe", "params": params}]}
        yield f"{op} key", {"steps": [{"op": op, "parms": params}]}
    for key in ("version", "input", "steps", "gates", "split", "seed"):
        for what, value in WRONG.items():
            yield f"{key}={what}", {key: value}
    for key in ("min_rows", "max_dropped_ratio", "max_pii_left"):
        for what in ("text", "list", "nan", "negative"):
            yield f"gates.{key}={what}", {"gates": {key: WRONG[what]}}


def _wrong_orders() -> Iterator[tuple[str, Any]]:
    steps = dict(_steps())
    for about in operators():
        for later in about["before"]:
            if about["op"] in steps and later in steps:
                made = [{"op": op, "params": steps[op]} for op in (later, about["op"])]
                yield f"{later} before {about['op']}", {"steps": made}


def _wrong_texts() -> Iterator[tuple[str, str | bytes]]:
    right = json.dumps({"steps": [{"op": op, "params": params} for op, params in _steps()[:2]], "seed": 3})
    for cut in range(5, len(right) - 1, 23):
        yield f"cut at {cut}", right[:cut]
    for at in range(3, len(right), 29):
        yield f"a byte at {at}", right[:at].encode() + b"\xff" + right[at:].encode()
    for depth in (20, 1_000, 30_000):
        yield f"lists {depth} deep", "[" * depth
        yield f"objects {depth} deep", '{"steps":' * depth
        yield f"yaml {depth} deep", "- " * min(depth, 20_000) + "x"
    yield "larger than allowed", json.dumps({"steps": ["x" * MAX_RECIPE_BYTES]})
    yield "long key", json.dumps({"k" * 60_000: 1})
    yield "many keys", json.dumps({f"key{n}": n for n in range(4_000)})
    yield "many steps", json.dumps({"steps": [{"op": "drop_empty"}] * 1_000})
    for key in ("seed", "steps", "gates"):
        yield f"{key} twice in JSON", f'{{"{key}": 1, "{key}": 2}}'
        yield f"{key} twice in YAML", f"{key}: 1\n{key}: 2\n"
    yield "anchors", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    yield "python objects", "steps: !!python/object/apply:os.system [ls]"
    yield "tabs", "steps:\n\t- op: drop_empty"


def _all() -> list[Any]:
    wrong = [(what, recipe) for what, recipe in _wrong_values() if not _accepted(copy.deepcopy(recipe))]
    return [pytest.param(recipe, id=what) for what, recipe in (*wrong, *_wrong_orders(), *_wrong_texts())]


CASES = _all()


def test_there_are_many_of_them() -> None:
    assert len(CASES) >= 500


@pytest.mark.parametrize("recipe", CASES)
def test_a_wrong_recipe_gets_one_error_with_its_place_and_its_mend(recipe: Any) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe(recipe)
    message = caught.value.message
    assert MEND.search(message), message
    assert len(message) <= 6_000
    assert "pydantic" not in message
    if isinstance(recipe, dict):
        assert caught.value.param


def test_values_that_are_accepted_are_ones_that_mean_something() -> None:
    taken = {what for what, recipe in _wrong_values() if _accepted(recipe)}
    # Null is a default of some, a text is free in some, and a number may be any.
    assert all(what.rpartition("=")[2] in {"null", "text", "number"} for what in taken), taken
