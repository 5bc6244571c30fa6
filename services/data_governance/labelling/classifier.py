"""A quick text classifier for Chinese and English alike: characters by TF-IDF, logistic regression.

scikit-learn and cleanlab take a second and 100 MB to import, so that only a worker that looks for something does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.errors import InvalidInput

FOLDS = 5
# Of a longer text its start says what it is about, and the memory stays bounded.
MOST_CHARS = 2_000
MOST_FEATURES = 50_000


@dataclass(frozen=True)
class Doubt:
    """A label that the others speak against: its place, what was given and guessed, and how likely the given one is."""

    at: int
    given: str
    guessed: str
    quality: float


def find_doubts(texts: Sequence[str], labels: Sequence[str], seed: int) -> list[Doubt]:
    """The least likely first, by confident learning (Northcutt et al. 2021) over out-of-sample probabilities.

    Raises InvalidInput where fewer than two labels have two items or more each.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    kept = _learnable(labels)
    names = sorted({labels[at] for at in kept})
    numbers = np.array([names.index(labels[at]) for at in kept])
    folds = min(FOLDS, *Counter(numbers.tolist()).values())
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    probabilities = cross_val_predict(
        _model(seed),
        [texts[at][:MOST_CHARS] for at in kept],
        numbers,
        cv=split,
        method="predict_proba",
        n_jobs=1,
    )
    issues = find_label_issues(numbers, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    quality = get_label_quality_scores(numbers, probabilities)
    return [
        Doubt(kept[at], names[numbers[at]], names[int(probabilities[at].argmax())], float(quality[at]))
        for at in issues.tolist()
    ]


def uncertainties(
    texts: Sequence[str], labels: Sequence[str], asked: Sequence[str], seed: int
) -> npt.NDArray[np.float64]:
    """How unsure a classifier of the labelled texts is of each one that is asked for, 0 to 1. Raises as above."""
    kept = _learnable(labels)
    model = _model(seed)
    model.fit([texts[at][:MOST_CHARS] for at in kept], [labels[at] for at in kept])
    return entropies(model.predict_proba([text[:MOST_CHARS] for text in asked]))


def entropies(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Entropy of each row of (n, labels) over the most that it may be: 0 is sure, 1 knows nothing."""
    clipped = np.clip(probabilities, 1e-12, 1)
    found: npt.NDArray[np.float64] = -(clipped * np.log(clipped)).sum(axis=1)
    shares: npt.NDArray[np.float64] = np.clip(found / np.log(max(2, probabilities.shape[1])), 0, 1)
    return shares


def _model(seed: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    characters = TfidfVectorizer(
        analyzer="char", ngram_range=(1, 3), sublinear_tf=True, max_features=MOST_FEATURES
    )
    return make_pipeline(characters, LogisticRegression(C=10, max_iter=300, random_state=seed))


def _learnable(labels: Sequence[str]) -> list[int]:
    """Places of labels that are given twice or more: of one alone nothing can be learned without having seen it."""
    counts = Counter(labels)
    kept = [at for at, label in enumerate(labels) if counts[label] > 1]
    if len({labels[at] for at in kept}) < 2:
        raise InvalidInput(
            f"a classifier needs two labels with two items or more each; the project has {dict(counts)}",
            code="too_few_labels",
            param="project",
        )
    return kept
