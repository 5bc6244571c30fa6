"""How well held-out texts find their label among training texts, from likeness alone. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Rows:
    """Tokens of each text, and the number of its label."""

    tokens: list[list[int]]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.tokens)

    def only(self, rows: Sequence[int]) -> Rows:
        return Rows([self.tokens[row] for row in rows], [self.labels[row] for row in rows])


def drawn(rows: Rows, most: int, seed: int, *, needed: Sequence[int] = ()) -> list[int]:
    """`most` of the rows, in their order, drawn by the seed, and one more of each label that is needed and was not
    drawn: a text whose label is not there cannot be measured."""
    if len(rows) <= most:
        return list(range(len(rows)))
    found = {int(row) for row in np.random.default_rng((seed, 5)).permutation(len(rows))[:most]}
    missing = set(needed) - {rows.labels[row] for row in found}
    for row, label in enumerate(rows.labels):
        if label in missing:
            missing.discard(label)
            found.add(row)
    return sorted(found)


def rank(likeness: torch.Tensor, labels: torch.Tensor, right: int) -> int:
    """The place of the right label, from 1, among labels by their best text; `likeness` and `labels` are (texts,)."""
    best = float(likeness[labels == right].max())
    return 1 + len(set(labels[likeness > best].tolist()))


def losses(likeness: torch.Tensor, labels: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(asked,) negative log probability that a text finds one of its label: a softmax over all training texts of
    `likeness` (asked, texts), temperature applied (Goldberger et al. 2004, neighbourhood components analysis)."""
    own = likeness.masked_fill(labels[None, :] != right[:, None], -torch.inf)
    return likeness.logsumexp(1) - own.logsumexp(1)


def figures(ranks: Sequence[int]) -> dict[str, float]:
    """Recall at 1 and 5, and the mean reciprocal rank."""
    places = np.array(ranks, dtype=float)
    return {
        "recall_at_1": float((places <= 1).mean()),
        "recall_at_5": float((places <= 5).mean()),
        "mrr": float((1 / places).mean()),
    }
