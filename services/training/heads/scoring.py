"""From held-out examples and a model to figures, beside those of no model at all. Knows no training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.training.heads import metrics
from services.training.heads.examples import Example
from shared.contracts.heads import RANKS, HeadKind

# The figure that tells most, by head.
MAIN = {
    "single_label": "accuracy",
    "multi_label": "micro_f1",
    "regression": "spearman",
    "rank_pairwise": "ndcg",
    "rank_pointwise": "ndcg",
}


@dataclass(frozen=True)
class Yardstick:
    """Held-out examples, and what is known of the training ones: labels, and what to guess without a model."""

    head: HeadKind
    labels: tuple[str, ...]
    seed: int
    # The most frequent label's number; of several labels whether more than half of the rows have each; the mean.
    majority: int = 0
    usual: tuple[bool, ...] = ()
    mean: float = 0.0

    def score(self, examples: Sequence[Example], logits: npt.NDArray[np.float64]) -> dict[str, float]:
        """Of logits (examples, outputs); of pairs (examples, 2)."""
        if self.head == "single_label":
            return metrics.single_label(self._numbers(examples), logits.argmax(1), len(self.labels))
        if self.head == "multi_label":
            return metrics.multi_label(self._many(examples), logits >= 0)
        if self.head == "regression":
            return metrics.regression(_targets(examples), logits[:, 0])
        found = metrics.ranking(_queries(examples, logits))
        if self.head == "rank_pairwise":
            found["pair_accuracy"] = float((logits[:, 0] > logits[:, 1]).mean())
        return found

    def baseline(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The same figures of the majority label, the mean, or a random order."""
        if self.head == "single_label":
            given = np.full(len(examples), self.majority, dtype=np.int64)
            found = metrics.single_label(self._numbers(examples), given, len(self.labels))
            return {"name": "majority class", **found}
        if self.head == "multi_label":
            given_many = np.tile(np.array(self.usual), (len(examples), 1))
            return {"name": "majority of each label", **metrics.multi_label(self._many(examples), given_many)}
        if self.head == "regression":
            given_mean = np.full(len(examples), self.mean)
            return {"name": "mean", **metrics.regression(_targets(examples), given_mean)}
        queries = _queries(examples, np.zeros((len(examples), 2)))
        return {"name": "random ranking", **metrics.random_ranking(queries, self.seed)}

    def _numbers(self, examples: Sequence[Example]) -> npt.NDArray[np.int64]:
        place = {label: number for number, label in enumerate(self.labels)}
        return np.array([place[str(example.target)] for example in examples], dtype=np.int64)

    def _many(self, examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
        return np.array(
            [
                [label in example.target for label in self.labels]
                for example in examples
                if isinstance(example.target, tuple)
            ]
        )


def yardstick(training: Sequence[Example], head: HeadKind, labels: tuple[str, ...], seed: int) -> Yardstick:
    """From the training rows alone."""
    if head in RANKS:
        return Yardstick(head, labels, seed)
    if head == "regression":
        return Yardstick(head, labels, seed, mean=float(_targets(training).mean()))
    counts = label_counts(training, labels)
    usual = tuple(count * 2 > len(training) for count in counts)
    return Yardstick(head, labels, seed, majority=int(np.argmax(counts)), usual=usual)


def label_counts(examples: Sequence[Example], labels: Sequence[str]) -> tuple[int, ...]:
    """How many rows have each label."""
    counts: dict[str, int] = defaultdict(int)
    for example in examples:
        for label in (example.target,) if isinstance(example.target, str) else example.target or ():  # type: ignore[union-attr]
            counts[str(label)] += 1
    return tuple(counts[label] for label in labels)


def _targets(examples: Sequence[Example]) -> npt.NDArray[np.float64]:
    return np.array([example.target for example in examples], dtype=np.float64)


def _queries(
    examples: Sequence[Example], logits: npt.NDArray[np.float64]
) -> list[dict[str, tuple[float, float]]]:
    """Each query's documents with (worth, score); a document that is better in one pair is worth 1."""
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for example, scores in zip(examples, logits.tolist(), strict=True):
        documents = found[example.texts[0]]
        if isinstance(example.target, float):
            documents[example.texts[1]] = (example.target, scores[0])
            continue
        documents[example.texts[1]] = (1.0, scores[0])
        documents.setdefault(example.texts[2], (0.0, scores[1]))
    return list(found.values())
