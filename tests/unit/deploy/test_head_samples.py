"""Shipped rows for heads: made with a seed, and no phrasing of a held-out question is in training."""

from __future__ import annotations

from typing import get_args

import pytest

from deploy.samples.heads import WRONG, rows
from deploy.samples.intents import HELD_OUT_EVERY, labelled
from deploy.samples.material import load
from shared.contracts.heads import HeadKind

SIZES = {"training": 200, "held_out": 100}


@pytest.mark.parametrize("code", ["zh", "en"])
def test_the_same_seed_makes_the_same_questions_of_all_intents_on_both_sides(code: str) -> None:
    training, held_out = labelled(code, 3, **SIZES)
    assert labelled(code, 3, **SIZES) == (training, held_out) != labelled(code, 4, **SIZES)
    assert (len(training), len(held_out)) == (200, 100)
    assert {row["label"] for row in training} == {row["label"] for row in held_out}
    assert not {row["text"] for row in training} & {row["text"] for row in held_out}


def test_a_held_out_question_is_worded_as_no_training_question() -> None:
    # Words that stand in one phrasing of the material alone tell which one a question came from.
    training, held_out = labelled("en", 3, training=400, held_out=100)
    held = [
        question
        for intent in load("en").intents
        for question in intent.questions[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    ]
    plain = [question.lower() for question in held if not set("{[") & set(question)]
    assert len(plain) > 10
    assert not any(phrase in row["text"].lower() for row in training for phrase in plain)
    assert any(phrase in row["text"].lower() for row in held_out for phrase in plain)


@pytest.mark.parametrize("head", get_args(HeadKind))
def test_every_kind_of_head_has_rows_it_can_learn_from(head: HeadKind) -> None:
    training, held_out = rows(head, "zh", 3, **SIZES)
    each = {"rank_pairwise": WRONG, "rank_pointwise": WRONG + 1}.get(head, 1)
    assert (len(training), len(held_out)) == (200 * each, 100 * each)
    if head == "multi_label":
        assert {len(row["labels"]) for row in training} == {1, 2}
    if head == "rank_pairwise":
        assert all(row["positive"] != row["negative"] for row in training)
    if head == "rank_pointwise":
        assert sum(row["score"] for row in training) == 200
