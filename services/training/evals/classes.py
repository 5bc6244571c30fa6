"""Figures of classification with intervals: accuracy, macro F1, MCC, recall of each class, AUROC and ECE. Pure.

MCC of many classes: Gorodkin 2004. ECE: 15 bins of equal width (Guo et al. 2017). AUROC: one class against the rest,
averaged over the classes (Hanley and McNeil 1982, by ranks).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.statistics import Interval, Places, interval_of, intervals_of

BINS = 15
RESAMPLES = 500
# Ranks of every class are sorted anew in each draw.
RESAMPLES_OF_RANKS = 100
OTHER = "(other)"

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Decisions:
    """What was to be said and what was said, and by label how likely each was where that is known."""

    wanted: Sequence[str]
    given: Sequence[str]
    likely: Sequence[Mapping[str, float]] | None = None
    clusters: Sequence[Hashable] | None = None


def measure(decisions: Decisions) -> tuple[dict[str, Interval | None], dict[str, dict[str, float | None]]]:
    """(figures, by class its recall, precision, F1 and support). An answer that is no class is wrong for each."""
    labels = sorted(set(decisions.wanted))
    place = {label: number for number, label in enumerate(labels)}
    other = len(labels)
    wanted = np.array([place[label] for label in decisions.wanted])
    given = np.array([place.get(label, other) for label in decisions.given])
    n, clusters = len(wanted), decisions.clusters

    def table(places: Places) -> Counts:
        """(classes and one for all else, the same): rows are what was to be said."""
        size = other + 1
        counted: Counts = np.bincount(wanted[places] * size + given[places], minlength=size * size)
        return counted.reshape(size, size)

    def of_table(places: Places) -> dict[str, float | None]:
        counted = table(places)
        recalls = {f"recall[{label}]": _share(*_hits(counted, at)) for label, at in place.items()}
        return {
            "accuracy": accuracy(counted),
            "macro_f1": macro_f1(counted),
            "mcc": mcc(counted),
            **recalls,
        }

    figures = intervals_of(of_table, n, clusters=clusters, resamples=RESAMPLES)
    whole = table(np.arange(n))
    classes = {}
    for number, label in enumerate(labels):
        right, support = _hits(whole, number)
        said = int(whole[:, number].sum())
        classes[label] = {
            "recall": _share(right, support),
            "precision": _share(right, said),
            "f1": _share(2 * right, support + said),
            "support": float(support),
        }
    if decisions.likely is not None:
        likely = np.array([[row.get(label, 0.0) for label in labels] for row in decisions.likely])
        figures["auroc"] = interval_of(
            lambda places: auroc(wanted[places], likely[places]),
            n,
            clusters=clusters,
            resamples=RESAMPLES_OF_RANKS,
        )
        sure = np.array([max(row.values(), default=0.0) for row in decisions.likely])
        figures["ece"] = interval_of(
            lambda places: ece(sure[places], (wanted == given)[places]),
            n,
            clusters=clusters,
            resamples=RESAMPLES,
        )
    return figures, classes


def accuracy(table: Counts) -> float | None:
    return _share(int(np.trace(table)), int(table.sum()))


def macro_f1(table: Counts) -> float | None:
    """The mean over the classes that were to be said."""
    support, said = table.sum(1), table.sum(0)
    there = support > 0
    if not there.any():
        return None
    scores = 2 * np.diag(table)[there] / (support + said)[there]
    return float(scores.mean())


def mcc(table: Counts) -> float | None:
    """-1 to 1; 0 where all is of one class or all was said to be."""
    support, said = table.sum(1).astype(float), table.sum(0).astype(float)
    n = float(table.sum())
    over = float(np.trace(table)) * n - float(support @ said)
    under = (n**2 - float(said @ said)) * (n**2 - float(support @ support))
    return over / float(np.sqrt(under)) if under > 0 else 0.0


def auroc(wanted: npt.NDArray[np.int64], likely: Numbers) -> float | None:
    """None where no class has both sides; of two classes it is that of the second, which is the first's too."""
    found = []
    numbers = range(likely.shape[1])
    for label in numbers[1:] if len(numbers) == 2 else numbers:
        mine = wanted == label
        count, rest = int(mine.sum()), int((~mine).sum())
        if count and rest:
            ranks = _ranks(likely[:, label])
            found.append((float(ranks[mine].sum()) - count * (count - 1) / 2) / (count * rest))
    return float(np.mean(found)) if found else None


def ece(sure: Numbers, right: npt.NDArray[np.bool_]) -> float:
    """The mean distance between how sure the answers are and how often they are right, 0 to 1."""
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    sums = np.bincount(bins, weights=sure - right, minlength=BINS)
    return float(np.abs(sums).sum() / len(sure))


def _hits(table: Counts, number: int) -> tuple[int, int]:
    return int(table[number, number]), int(table[number].sum())


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _ranks(values: Numbers) -> Numbers:
    """From 0; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Numbers = ((ends - 1 + ends - counts) / 2)[place]
    return ranks
