"""The contrastive loss of heads: its value, rows that have no fellow, and an order in which like stands with like."""

from __future__ import annotations

import math

import pytest
import torch

from services.training.heads.losses import contrast
from services.training.heads.pace import paired
from shared.contracts.heads import HeadChoice, HeadParameters, check_choice
from shared.errors import InvalidInput


def test_rows_of_a_label_are_held_against_all_others() -> None:
    vectors = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    found = contrast(vectors, torch.tensor([0, 0, 1]), temperature=0.5)
    # Likeness 1 with the fellow and 0 with the other, over a temperature of one half; the third row has no fellow.
    assert float(found) == pytest.approx(-(2 - math.log(math.e**2 + 1)))


def test_a_row_alone_in_its_batch_moves_nothing() -> None:
    vectors = torch.ones((1, 4), requires_grad=True)
    loss = contrast(vectors, torch.tensor([3]), temperature=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss) == 0
    assert vectors.grad is not None
    assert torch.equal(vectors.grad, torch.zeros(1, 4))


def test_every_row_but_the_odd_ones_stands_beside_one_of_its_label() -> None:
    labels = [0] * 5 + [1] * 4 + [2] * 3
    order = paired(labels, 2, seed=1)
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert list(order[:12]) != list(order[12:])
    for epoch in (order[:12], order[12:]):
        twos = [(labels[a], labels[b]) for a, b in zip(epoch[:10:2], epoch[1:10:2], strict=True)]
        assert all(a == b for a, b in twos)
        assert {labels[row] for row in epoch[10:]} == {0, 2}


def test_a_frozen_trunk_has_nothing_to_contrast() -> None:
    with pytest.raises(InvalidInput, match="take full or lora") as refused:
        check_choice(
            HeadChoice(head="single_label", method="frozen", loss="contrastive"), True, HeadParameters()
        )
    assert refused.value.param == "loss"
