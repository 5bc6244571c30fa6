"""What grammars allow next, on a real tokenizer."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from services.inference.engine.grammar import Constraint, GrammarFailed, MaskMaker, Vocabulary
from shared.contracts.structured import json_schema, structured_outputs
from shared.errors import InvalidInput
from tests.unit.inference.tiny_models import build_tokenizer

TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(TOKENIZER, [TOKENIZER.eos_token_id])


def allowed(*constraints: Constraint | None) -> list[list[int] | None]:
    maker = MaskMaker()
    try:
        future = maker.start(constraints)
        assert future is not None
        return [
            None if mask is None else [t for t in range(len(mask) * 32) if mask[t // 32] >> (t % 32) & 1]
            for mask in future.result()
        ]
    finally:
        maker.close()


def answers(constraint: Constraint, seed: int) -> str:
    """A random walk through what is allowed, to the grammar's end."""
    dice = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    while not constraint.complete:
        (choices,) = allowed(constraint)
        assert choices
        token = choices[int(torch.randint(len(choices), (1,), generator=dice))]
        if token == TOKENIZER.eos_token_id:
            break
        constraint.accept(token)
        tokens.append(token)
    return str(TOKENIZER.decode(tokens))


def test_a_choice_ends_as_one_of_its_strings_characters_split_over_tokens_included(
    vocabulary: Vocabulary,
) -> None:
    grammar = structured_outputs({"choice": ["可以", "不行", "maybe"]})
    found = {answers(Constraint(vocabulary, grammar), seed) for seed in range(40)}
    assert found == {"可以", "不行", "maybe"}


def test_a_schema_ends_as_json_that_holds(vocabulary: Vocabulary) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["refund", "退货"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 30},
        },
        "required": ["kind", "days"],
        "additionalProperties": False,
    }
    for seed in range(20):
        answer = json.loads(answers(Constraint(vocabulary, json_schema(schema, "schema")), seed))
        assert answer["kind"] in ("refund", "退货")
        assert 1 <= answer["days"] <= 30


def test_rows_without_a_grammar_have_no_mask(vocabulary: Vocabulary) -> None:
    constraint = Constraint(vocabulary, structured_outputs({"regex": "a"}))
    masks = allowed(None, constraint, None)
    assert masks[0] is masks[2] is None
    assert [TOKENIZER.decode([token]) for token in masks[1] or []] == ["a"]
    assert MaskMaker().start([None, None]) is None


def test_a_token_that_is_not_allowed_is_an_error_of_the_grammar(vocabulary: Vocabulary) -> None:
    constraint = Constraint(vocabulary, structured_outputs({"regex": "a"}))
    with pytest.raises(GrammarFailed):
        constraint.accept(TOKENIZER.encode("b")[0])
    assert constraint.error


def test_a_model_without_a_vocabulary_for_grammars_refuses_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"tokenizer\.json"):
        Constraint(None, structured_outputs({"regex": "a"}))


def test_what_is_no_grammar_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(InvalidInput, match="refused"):
        Constraint(vocabulary, "not a grammar {")
