"""How words and meaning are fused: weights of a language, learned from pairs of a query and what answers it. Pure.

score = 1 / (1 + exp(-(bias + words * w + meaning * m))), with `words` and `meaning` as of `rank`. Which of the two
counts for how much is learned so that the right text comes first (softmax over all texts); `bias` and the scale of
both then make the score the chance that a text is right. `weights.json` holds what `python -m tests.bench.retrieval
--fit` made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
FILE = Path(__file__).with_name("weights.json")
_STEPS, _RIDGE = 60, 1e-3


@dataclass(frozen=True)
class Weights:
    words: float
    meaning: float
    bias: float

    def fused(self, words: Scores, meaning: Scores) -> Scores:
        fused: Scores = 1 / (1 + np.exp(-(self.bias + self.words * words + self.meaning * meaning)))
        return fused


@dataclass(frozen=True)
class Judged:
    """One query: (texts,) of `words` and `meaning`, and which of the texts is right."""

    words: Scores
    meaning: Scores
    right: int


@cache
def _stored() -> dict[str, Weights]:
    told = json.loads(FILE.read_text(encoding="utf-8"))["languages"]
    return {name: Weights(one["words"], one["meaning"], one["bias"]) for name, one in told.items()}


def of_language(language: str) -> Weights:
    return _stored()[language]


def fit(judged: Sequence[Judged]) -> Weights:
    """Weights that put what is right first, then on a scale where a score is a chance.

    Newton's method on the mean of -log softmax, which is convex; then the same on a logistic loss of (bias, scale)
    over every text, where those that are wrong weigh as much together as the right one.
    """
    x = np.ones(2)
    for _ in range(_STEPS):
        gradient, curvature = _RIDGE * x, _RIDGE * np.eye(2)
        for one in judged:
            features = np.stack([one.words, one.meaning], 1)
            logits = features @ x
            share = np.exp(logits - logits.max())
            share /= share.sum()
            mean = share @ features
            gradient = gradient + (mean - features[one.right]) / len(judged)
            centred = features - mean
            curvature = curvature + (centred * share[:, None]).T @ centred / len(judged)
        step = np.linalg.solve(curvature, gradient)
        before, pace = _loss(judged, x), 1.0
        # Far from its end a whole step of Newton's may lead away from it.
        while pace > 1e-6 and _loss(judged, tried := np.maximum(x - pace * step, 0.0)) > before:
            pace /= 2
        x = tried
    scale, bias = _calibrated([(np.stack([j.words, j.meaning], 1) @ x, j.right) for j in judged])
    return Weights(words=float(scale * x[0]), meaning=float(scale * x[1]), bias=float(bias))


def _loss(judged: Sequence[Judged], x: Scores) -> float:
    total = 0.0
    for one in judged:
        logits = one.words * x[0] + one.meaning * x[1]
        total += float(np.logaddexp.reduce(logits) - logits[one.right])
    return total / len(judged) + _RIDGE * float(x @ x) / 2


def _calibrated(rows: Sequence[tuple[Scores, int]]) -> tuple[float, float]:
    """(scale, bias) by Newton's method; the rivals of a right text share its weight, the hardest ten of them."""
    values, labels, shares = [], [], []
    for scores, right in rows:
        wrong = np.sort(np.delete(scores, right))[::-1][:10]
        values += [scores[right], *wrong]
        labels += [1.0, *np.zeros(len(wrong))]
        shares += [1.0, *np.full(len(wrong), 1 / max(1, len(wrong)))]
    v, y, s = np.array(values), np.array(labels), np.array(shares)
    design = np.stack([v, np.ones_like(v)], 1)
    theta = np.zeros(2)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (s * (p - y)) + _RIDGE * theta
        curvature = (design * (s * p * (1 - p))[:, None]).T @ design + _RIDGE * np.eye(2)
        theta -= np.linalg.solve(curvature, gradient)
    return max(float(theta[0]), 1e-6), float(theta[1])


def dump(languages: dict[str, Weights], made: dict[str, object]) -> str:
    """The content of `weights.json`; `made` says of what and how."""
    rounded = {
        name: {key: round(value, 4) for key, value in asdict(one).items()} for name, one in languages.items()
    }
    return json.dumps({**made, "languages": rounded}, ensure_ascii=False, indent=1) + "\n"
