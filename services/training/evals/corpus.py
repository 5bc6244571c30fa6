"""BLEU, chrF and ROUGE of many texts together, with intervals by resampling the texts. Pure.

The figures are sacrebleu's over texts that are cut into Chinese characters and words first (BLEU), or into characters
alone (chrF, n-grams of 1 to 6, beta 2); ROUGE is the mean of each text's F1. All from 0 to 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
from sacrebleu.metrics import BLEU

from services.training.evals.similarity import similarity, spaced
from shared.statistics import Interval, Places, interval, interval_of

RESAMPLES = 500
ORDERS = 6
BETA_SQUARED = 4
# What the orders of a short text are worth is no matter here: its counts alone are taken.
_BLEU = BLEU(tokenize="none", effective_order=True)


def measure(
    metric: str, texts: Sequence[str], references: Sequence[str], clusters: Sequence[Hashable] | None
) -> Interval | None:
    """`metric` is bleu, chrf or one of similarity's for a pair."""
    if metric == "bleu":
        bleu = np.array([bleu_counts(*pair) for pair in zip(texts, references, strict=True)])
        return interval_of(lambda at: _bleu(bleu, at), len(texts), clusters=clusters, resamples=RESAMPLES)
    if metric == "chrf":
        counts = np.array([chrf_counts(*pair) for pair in zip(texts, references, strict=True)])
        return interval_of(
            lambda at: chrf(counts[at].sum(0)), len(texts), clusters=clusters, resamples=RESAMPLES
        )
    values = [similarity(metric, *pair) for pair in zip(texts, references, strict=True)]
    return interval(values, clusters=clusters)


def bleu_counts(text: str, reference: str) -> list[int]:
    """n-grams in common (1 to 4), n-grams of the text (1 to 4), tokens of the text, tokens of the reference."""
    told = _BLEU.sentence_score(spaced(text), [spaced(reference)])
    return [*told.counts, *told.totals, told.sys_len, told.ref_len]


def _bleu(counts: npt.NDArray[np.int64], places: Places) -> float:
    summed = counts[places].sum(0).tolist()
    told = BLEU.compute_bleu(summed[:4], summed[4:8], summed[8], summed[9], smooth_method="exp")
    return float(told.score) / 100


def chrf_counts(text: str, reference: str) -> list[tuple[int, int, int]]:
    """For n of 1 to 6: n-grams of the text, of the reference, and in common. White space does not count."""
    mine, theirs = "".join(text.split()), "".join(reference.split())
    rows = []
    for n in range(1, ORDERS + 1):
        got = Counter(mine[i : i + n] for i in range(len(mine) - n + 1))
        want = Counter(theirs[i : i + n] for i in range(len(theirs) - n + 1))
        rows.append((got.total(), want.total(), (got & want).total()))
    return rows


def chrf(counts: npt.NDArray[np.int64]) -> float:
    """F2 of mean precision and mean recall over the orders that both sides have."""
    there = [(match / got, match / want) for got, want, match in counts.tolist() if got and want]
    if not there:
        return 0.0
    precision = sum(p for p, _ in there) / len(there)
    recall = sum(r for _, r in there) / len(there)
    under = BETA_SQUARED * precision + recall
    return (1 + BETA_SQUARED) * precision * recall / under if under else 0.0
