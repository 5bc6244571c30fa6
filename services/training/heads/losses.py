"""The losses of heads by name, each the mean over a batch's rows. Knows logits, vectors and targets, no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# The name of the one loss that asks for the trunk's vectors too, and for batches that hold a label twice.
CONTRASTIVE = "contrastive"


@dataclass(frozen=True)
class LossOptions:
    """`counts` are the training rows of each label and `rows` all of them, for weights by class."""

    label_smoothing: float = 0.1
    focal_gamma: float = 2.0
    margin: float = 1.0
    contrastive_weight: float = 0.5
    contrastive_temperature: float = 0.1
    counts: tuple[int, ...] = ()
    rows: int = 0


def make_loss(head: str, name: str, options: LossOptions) -> Loss:
    """Of logits (rows, labels) and label numbers (rows); of several labels 0 or 1 (rows, labels); of numbers (rows, 1)
    both; of pairs logits (rows, 2), the better document's first, and no target."""
    if head == "single_label":
        return _single(name, options)
    if head == "multi_label":
        return _multi(name, options)
    if head == "rank_pairwise":
        return _pairwise(name, options)
    numbers: dict[str, Loss] = {
        "squared_error": F.mse_loss,
        "huber": F.huber_loss,
        "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    }
    return numbers[name]


def _single(name: str, options: LossOptions) -> Loss:
    def cross_entropy(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, wanted)

    def smoothed(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, wanted, label_smoothing=options.label_smoothing)

    def focal(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Lin et al. 2017, https://arxiv.org/abs/1708.02002: rows that are right already count less."""
        each = F.cross_entropy(logits, wanted, reduction="none")
        return ((1 - torch.exp(-each)) ** options.focal_gamma * each).mean()

    def weighted(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Each label as much in all as any other: a row of it weighs rows / (labels x its rows)."""
        counts = torch.tensor(options.counts, dtype=logits.dtype, device=logits.device)
        weights = options.rows / (len(counts) * counts.clamp(min=1))
        each = F.cross_entropy(logits, wanted, reduction="none")
        return (weights[wanted] * each).mean()

    return {
        "cross_entropy": cross_entropy,
        "label_smoothing": smoothed,
        "focal": focal,
        "class_weighted": weighted,
        # What the vectors say joins it in `contrast`.
        CONTRASTIVE: cross_entropy,
    }[name]


def contrast(features: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of vectors (rows, width): each row's likeness to those of its label, against all others of the batch.

    Supervised contrast (Khosla et al. 2020, arXiv:2004.11362), as the companion of a cross-entropy (Gunel et al.
    2021, arXiv:2011.01403). Rows that are alone with their label say nothing; a batch of these is 0.
    """
    vectors = F.normalize(features, dim=1)
    self_ = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # Not minus infinity, which makes the gradient of a batch of one row no number.
    likeness = (vectors @ vectors.T / temperature).masked_fill(self_, -1e9)
    chances = likeness - likeness.logsumexp(1, keepdim=True)
    same = (labels[:, None] == labels[None, :]) & ~self_
    fellows = same.sum(1)
    each = -chances.masked_fill(~same, 0.0).sum(1) / fellows.clamp(min=1)
    return each.sum() / (fellows > 0).sum().clamp(min=1)


def _multi(name: str, options: LossOptions) -> Loss:
    def focal(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return ((1 - torch.exp(-each)) ** options.focal_gamma * each).mean()

    def weighted(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """What has a label weighs as much in all as what has it not."""
        counts = torch.tensor(options.counts, dtype=logits.dtype, device=logits.device).clamp(min=1)
        return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=(options.rows - counts) / counts)

    if name == "binary_cross_entropy":
        return F.binary_cross_entropy_with_logits
    return {"focal": focal, "class_weighted": weighted}[name]


def _pairwise(name: str, options: LossOptions) -> Loss:
    def logistic(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        """RankNet, Burges et al. 2005."""
        return F.softplus(logits[:, 1] - logits[:, 0]).mean()

    def hinge(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return F.relu(options.margin - logits[:, 0] + logits[:, 1]).mean()

    return {"logistic": logistic, "hinge": hinge}[name]
