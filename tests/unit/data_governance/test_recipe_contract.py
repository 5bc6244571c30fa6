"""A wrong recipe is refused before it runs, with the place and the nearest right name."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.recipe import Recipe
from shared.contracts.recipe_text import InvalidRecipe, parse_recipe


def test_yaml_and_json_of_the_same_recipe_are_equal() -> None:
    yaml = "version: 1\nsteps:\n  - op: mask_pii\n    params: {types: [phone]}\nsplit: {validation: 0.2}\nseed: 3\n"
    json = '{"version":1,"steps":[{"op":"mask_pii","params":{"types":["phone"]}}],"split":{"validation":0.2},"seed":3}'
    assert parse_recipe(yaml) == parse_recipe(json) == parse_recipe(json.encode())


def test_the_canonical_text_writes_defaults_out() -> None:
    assert (
        parse_recipe({}).canonical() == parse_recipe({"version": 1, "seed": 0, "input": "auto"}).canonical()
    )


@pytest.mark.parametrize(
    ("recipe", "param", "says"),
    [
        ({"steps": [{"op": "mask_pi"}]}, "steps[0]", "did you mean `mask_pii`"),
        ({"steps": [{"op": "zzz"}]}, "steps[0]", "`normalize_text`"),
        ({"steps": [{}]}, "steps[0]", "needs `op`"),
        (
            {"steps": [{"op": "mask_pii", "params": {"typs": []}}]},
            "steps[0].params.typs",
            "did you mean `types`",
        ),
        (
            {"steps": [{"op": "mask_pii", "params": {"types": ["fone"]}}]},
            "steps[0].params.types[0]",
            "'phone'",
        ),
        ({"steps": [{"op": "mask_pii", "vers": 1}]}, "steps[0].vers", "did you mean `version`"),
        ({"steps": [{"op": "drop_empty", "version": 2}]}, "steps[0].version", "should be 1"),
        ({"steps": [{"op": "drop_empty", "params": {"x": 1}}]}, "steps[0].params.x", "unknown key"),
        (
            {"steps": [{"op": "length_bounds", "params": {"min_chars": 9, "max_chars": 3}}]},
            "steps[0].params",
            "above",
        ),
        (
            {"steps": [{"op": "length_bounds", "params": {"min_chars": "9"}}]},
            "steps[0].params.min_chars",
            "integer",
        ),
        ({"input": {"promt": "a"}}, "input.promt", "did you mean `prompt`"),
        ({"input": {"prompt": "a"}}, "input", "`completion` is missing"),
        ({"input": {"text": "a", "context": "b"}}, "input", "`context` follows a `prompt`"),
        ({"input": {"text": "a", "messages": "b"}}, "input", "exactly one"),
        ({"input": "aut"}, "input", "`auto`"),
        ({"gates": {"min_row": 1}}, "gates.min_row", "did you mean `min_rows`"),
        ({"gates": {"max_dropped_ratio": 1.5}}, "gates.max_dropped_ratio", "less than or equal to 1"),
        ({"split": {"validation": 0.9}}, "split.validation", "less than or equal to 0.5"),
        ({"sed": 3}, "sed", "did you mean `seed`"),
        ({"seed": True}, "seed", "integer"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_place(recipe: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe(recipe)
    assert caught.value.param == param
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (
            {"steps": [{"op": "mask_pii"}, {"op": "normalize_text"}]},
            "`normalize_text` (step 1) must come before",
        ),
        ({"steps": [{"op": "exact_duplicates"}, {"op": "normalize_text"}]}, "makes new duplicates"),
        ({"steps": [{"op": "exact_duplicates"}, {"op": "conflicting_labels"}]}, "no votes to count"),
        ({"steps": [{"op": "mask_pii"}, {"op": "mask_pii"}]}, "repeats `mask_pii`"),
        ({"split": {"by": "id"}}, "needs an `exact_duplicates` step"),
        ({"gates": {"max_duplicate_ratio": 0.1}}, "needs an `exact_duplicates` step"),
    ],
)
def test_steps_in_an_order_that_undoes_a_promise_are_refused(recipe: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe(recipe)
    assert says in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        *(
            "[" * 50_000,
            '{"a":' * 5_000,
            "a: &x [1]\nb: *x",
            "[1,2]",
            '{"seed":1,"seed":2}',
            "seed: 1\nseed: 2",
        ),
        *(
            "1: 2",
            "a: [",
            b"\xff\xfe",
            "",
            "null",
            "x" * 100_000,
            '{"seed": NaN}',
            "!!python/object:os.system x",
        ),
        *(
            "? {a: b}\n: c",
            "'" * 999,
            "\x00",
            "\ud800",
            "- " * 30 + "a",
            '{"steps": 3}',
            '{"steps":[3]}',
            "seed: 2024-01-01",
        ),
    ],
)
def test_any_other_text_gets_one_clear_error(text: str | bytes) -> None:
    with pytest.raises(InvalidRecipe):
        parse_recipe(text)


def test_a_recipe_survives_its_own_dump() -> None:
    recipe = parse_recipe(
        {"input": {"text": "body"}, "steps": [{"op": "normalize_text"}, {"op": "mask_pii"}]}
    )
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
