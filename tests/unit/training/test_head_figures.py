"""Losses and figures of heads against what their definitions come to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.training.heads import metrics
from services.training.heads.losses import LossOptions, make_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3], [-2.0, 1.0, 3.0], [0.0, 0.0, 0.0]])
WANTED = torch.tensor([0, 1, 1, 0])
MANY = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
OPTIONS = LossOptions(label_smoothing=0.2, focal_gamma=3.0, margin=0.5, counts=(2, 1, 1), rows=4)
PICKED = LOGITS.log_softmax(1)[torch.arange(4), WANTED]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cross_entropy", -PICKED.mean()),
        ("label_smoothing", -(0.8 * PICKED + 0.2 * LOGITS.log_softmax(1).mean(1)).mean()),
        ("focal", -((1 - PICKED.exp()) ** 3 * PICKED).mean()),
        # 4 rows over 3 labels with 2, 1 and 1 of them.
        ("class_weighted", -(torch.tensor([2 / 3, 4 / 3, 4 / 3, 2 / 3]) * PICKED).mean()),
    ],
)
def test_losses_of_one_label_are_their_formulas(name: str, wanted: torch.Tensor) -> None:
    assert torch.allclose(make_loss("single_label", name, OPTIONS)(LOGITS, WANTED), wanted)


def test_losses_of_several_labels_are_their_formulas() -> None:
    right = torch.where(MANY == 1, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    weights = torch.where(MANY == 1, torch.tensor([1.0, 3.0, 3.0]), torch.ones(3))
    for name, wanted in (
        ("binary_cross_entropy", -right.log().mean()),
        ("focal", -((1 - right) ** 3 * right.log()).mean()),
        ("class_weighted", -(weights * right.log()).mean()),
    ):
        assert torch.allclose(make_loss("multi_label", name, OPTIONS)(LOGITS, MANY), wanted), name


def test_losses_of_pairs_fall_as_the_better_one_rises() -> None:
    pairs, none = torch.tensor([[1.0, 0.2], [0.0, 2.0]]), torch.zeros(2)
    gaps = [0.8, -2.0]
    logistic = sum(math.log1p(math.exp(-gap)) for gap in gaps) / 2
    hinge = sum(max(0.0, 0.5 - gap) for gap in gaps) / 2
    assert float(make_loss("rank_pairwise", "logistic", OPTIONS)(pairs, none)) == pytest.approx(logistic)
    assert float(make_loss("rank_pairwise", "hinge", OPTIONS)(pairs, none)) == pytest.approx(hinge)


def test_labels_are_counted_as_in_the_textbook() -> None:
    found = metrics.single_label(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0]), 4)
    # F1 of the labels that occur: 1/2, 4/5 and 0.
    assert found == {"accuracy": pytest.approx(0.6), "macro_f1": pytest.approx((0.5 + 0.8 + 0) / 3)}
    wanted = np.array([[1, 0], [1, 1], [0, 0]], dtype=bool)
    given_ = np.array([[1, 0], [0, 1], [0, 1]], dtype=bool)
    assert metrics.multi_label(wanted, given_) == {
        "micro_f1": pytest.approx(2 * 2 / 6),
        "macro_f1": pytest.approx(2 / 3),
        "exact_match": pytest.approx(1 / 3),
    }


def test_ranks_of_equal_numbers_are_shared() -> None:
    found = metrics.regression(np.array([1.0, 2, 2, 4]), np.array([10.0, 20, 30, 40]))
    # Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
    assert found["spearman"] == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert metrics.regression(np.array([1.0, 2]), np.array([5.0, 5]))["spearman"] == 0


def test_an_order_is_worth_its_discounted_gains() -> None:
    found = metrics.ranking(
        [{"a": (1.0, 0.1), "b": (0.0, 0.9), "c": (3.0, 0.5)}, {"x": (1.0, 1), "y": (1.0, 2)}]
    )
    gained = 0 / 1 + 3 / math.log2(3) + 1 / 2
    best = 3 / 1 + 1 / math.log2(3)
    assert found == {"ndcg": pytest.approx(gained / best), "mrr": pytest.approx(0.5)}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda worth: min(worth) < max(worth)))
def test_the_best_order_is_worth_1_and_no_opinion_gains_nothing(worth: list[float]) -> None:
    best = metrics.ranking([{str(i): (w, w) for i, w in enumerate(worth)}])
    none = metrics.ranking([{str(i): (w, 0.0) for i, w in enumerate(worth)}])
    worst = metrics.ranking([{str(i): (w, -w) for i, w in enumerate(worth)}])
    assert best == {"ndcg": pytest.approx(1), "mrr": 1}
    assert none == worst
    chance = metrics.random_ranking([{str(i): (w, 0.0) for i, w in enumerate(worth)}], 3)
    assert worst["ndcg"] - 1e-9 <= chance["ndcg"] <= 1 + 1e-9
