"""Examples as a model sees them: tokens, targets as numbers, and what a frozen trunk makes of them once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from services.training.heads.examples import Example, labels_of
from services.training.heads.model import Encoding, HeadModel
from services.training.heads.trunk import Trunk
from services.training.run import Run, Stopped
from shared.contracts.heads import HeadChoice

_AT_ONCE = 64


@dataclass
class Rows:
    """Examples as the model sees them: `encodings` of each one's texts (two of a pair), and its target as numbers.

    `features` are what a frozen trunk makes of them, (rows, texts of a row, width).
    """

    examples: Sequence[Example]
    encodings: list[tuple[Encoding, ...]]
    targets: torch.Tensor
    features: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def lengths(self) -> list[int]:
        return [sum(len(one.ids) for one in row) for row in self.encodings]


def scale_of(training: Sequence[Example], choice: HeadChoice) -> tuple[float, float]:
    """(deviation, mean) of the scores that are learned as numbers, which are brought to 1 and 0 for it."""
    scores = [example.target for example in training if isinstance(example.target, float)]
    if not scores or choice.named_loss == "binary_cross_entropy":
        return 1.0, 0.0
    mean = math.fsum(scores) / len(scores)
    return math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores)), mean


def rows_of(
    examples: Sequence[Example],
    trunk: Trunk,
    choice: HeadChoice,
    labels: Sequence[str],
    scale: tuple[float, float],
    device: torch.device,
) -> Rows:
    encodings: list[tuple[Encoding, ...]] = []
    for example in examples:
        if choice.head == "rank_pairwise":
            query, better, worse = example.texts
            encodings.append((Encoding(*trunk.encode(query, better)), Encoding(*trunk.encode(query, worse))))
        else:
            encodings.append((Encoding(*trunk.encode(*example.texts)),))
    return Rows(examples, encodings, _targets(examples, choice, labels, scale).to(device))


def _targets(
    examples: Sequence[Example], choice: HeadChoice, labels: Sequence[str], scale: tuple[float, float]
) -> torch.Tensor:
    place = {label: number for number, label in enumerate(labels)}
    if choice.head == "single_label":
        return torch.tensor([place[str(example.target)] for example in examples])
    if choice.head == "multi_label":
        many = torch.zeros(len(examples), len(labels))
        for row, example in enumerate(examples):
            for label in labels_of([example]):
                many[row, place[label]] = 1.0
        return many
    if choice.head == "rank_pairwise":
        return torch.zeros(len(examples))
    deviation, mean = scale
    return torch.tensor([[(float(e.target or 0.0) - mean) / deviation] for e in examples])  # type: ignore[arg-type]


def features_of(model: HeadModel, rows: Rows, run: Run) -> torch.Tensor:
    """What the frozen trunk makes of every text, once: (rows, texts of a row, width)."""
    flat = [one for row in rows.encodings for one in row]
    by_length = sorted(range(len(flat)), key=lambda i: len(flat[i].ids))
    found: list[torch.Tensor] = []
    with torch.no_grad():
        model.eval()
        for start in range(0, len(flat), _AT_ONCE):
            if run.stop_reason:
                raise Stopped(run.stop_reason, 0)
            found.append(model.features([flat[i] for i in by_length[start : start + _AT_ONCE]]))
    back = torch.from_numpy(np.argsort(by_length))
    return torch.cat(found)[back].view(len(rows), -1, found[0].shape[1])
