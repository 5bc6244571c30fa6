"""How good predictions are, and how good one would be without a model. Knows numpy alone.

Accuracy, F1, squared error and rank correlation as in any textbook; NDCG with linear gains, cut at 10
(Järvelin and Kekäläinen 2002), MRR of the first document of the query's highest worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
CUT = 10
SHUFFLES = 50


def single_label(
    wanted: npt.NDArray[np.int64], given: npt.NDArray[np.int64], labels: int
) -> dict[str, float]:
    """Of label numbers; macro F1 is the mean over the labels that occur in `wanted`."""
    scores = [_f1(wanted == label, given == label) for label in range(labels) if (wanted == label).any()]
    return {"accuracy": float((wanted == given).mean()), "macro_f1": float(np.mean(scores))}


def multi_label(wanted: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Of (rows, labels); micro F1 counts every decision alike, macro F1 every label that occurs."""
    scores = [_f1(wanted[:, i], given[:, i]) for i in range(wanted.shape[1]) if wanted[:, i].any()]
    return {
        "micro_f1": _f1(wanted.ravel(), given.ravel()),
        "macro_f1": float(np.mean(scores)) if scores else 0.0,
        "exact_match": float((wanted == given).all(1).mean()),
    }


def regression(wanted: Numbers, given: Numbers) -> dict[str, float]:
    return {
        "mse": float(((wanted - given) ** 2).mean()),
        "mae": float(np.abs(wanted - given).mean()),
        "spearman": _correlation(_ranks(wanted), _ranks(given)),
    }


def ranking(queries: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Of each query's documents: (worth, score). Queries whose documents are all of one worth say nothing."""
    ndcg, reciprocal = [], []
    for documents in queries:
        worth, score = np.array(list(documents.values()), dtype=np.float64).T
        if worth.min() == worth.max():
            continue
        # Equal scores in the worst order, so that a model that says nothing gains nothing.
        order = np.lexsort((worth, -score))
        ndcg.append(_ndcg(worth[order]))
        reciprocal.append(1 / (1 + int((worth[order] == worth.max()).argmax())))
    return {"ndcg": float(np.mean(ndcg)), "mrr": float(np.mean(reciprocal))}


def random_ranking(queries: Sequence[Mapping[str, tuple[float, float]]], seed: int) -> dict[str, float]:
    """The mean of `ranking` over shuffles."""
    rng = np.random.default_rng(seed)
    found = [
        ranking([{name: (worth, rng.random()) for name, (worth, _) in query.items()} for query in queries])
        for _ in range(SHUFFLES)
    ]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _f1(wanted: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]) -> float:
    both = int((wanted & given).sum())
    total = int(wanted.sum()) + int(given.sum())
    return 2 * both / total if total else 0.0


def _ndcg(worth: Numbers) -> float:
    gains = worth - min(0.0, float(worth.min()))
    discount = 1 / np.log2(np.arange(2, CUT + 2))
    best = np.sort(gains)[::-1][:CUT]
    return float((gains[:CUT] * discount[: len(gains[:CUT])]).sum() / (best * discount[: len(best)]).sum())


def _ranks(values: Numbers) -> Numbers:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means = (ends - 1 + ends - counts) / 2
    ranks: Numbers = means[place]
    return ranks


def _correlation(one: Numbers, other: Numbers) -> float:
    """Pearson's; 0 where either does not vary."""
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum() / size) if size else 0.0
