"""What is true where voters differ, and how far each is to be believed (Dawid and Skene 1979, by EM). Pure.

One coin a voter, as labelling functions are weighed: of who only ever says one label the full model learns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Vote = tuple[int, int, int]
# As many votes as this, with this share of them right, are believed of a function before it has said anything.
BELIEF, BELIEVED_VOTES = 0.8, 10.0


@dataclass(frozen=True)
class Fitted:
    """`posteriors[item, label]`, `confusions[voter, true label, said label]`, `priors[label]`; rows sum to 1."""

    posteriors: Floats
    confusions: Floats
    priors: Floats
    rounds: int


def fit(
    votes: Sequence[Vote],
    *,
    items: int,
    voters: int,
    labels: int,
    smoothing: float = 0.01,
    max_rounds: int = 100,
    tolerance: float = 1e-6,
    one_coin: bool = False,
) -> Fitted:
    """From (item, voter, label) triples, numbered from 0; who did not vote is left out.

    Starts at the shares of each item's votes. `smoothing` is added to every count, so that a voter who has never been
    wrong may yet be. An item without a vote gets the priors.

    With `one_coin` a voter has one accuracy for all labels, which is believed to be BELIEF until votes tell otherwise,
    and labels are as likely as each other: the full model learns nothing of who only ever says one label, as functions
    do, and few votes on rare labels would be swallowed by the frequent ones.
    """
    item, voter, said = (np.array(column, dtype=np.int64) for column in zip(*votes, strict=True))
    shares = np.zeros((items, labels))
    np.add.at(shares, (item, said), 1.0)
    voted = shares.sum(axis=1, keepdims=True)
    posteriors = np.where(voted > 0, shares / np.maximum(voted, 1), 1 / labels)
    rounds = 0
    while True:
        rounds += 1
        priors, counts = _maximise(posteriors, item, voter, said, voters, smoothing)
        confusions = _one_coin(counts) if one_coin else _by_label(counts)
        if one_coin:
            priors = np.full(labels, 1 / labels)
        before, posteriors = posteriors, _expect(priors, confusions, item, voter, said, items)
        if rounds == max_rounds or float(np.abs(posteriors - before).max()) < tolerance:
            return Fitted(posteriors, confusions, priors, rounds)


def _maximise(
    posteriors: Floats,
    item: npt.NDArray[np.int64],
    voter: npt.NDArray[np.int64],
    said: npt.NDArray[np.int64],
    voters: int,
    smoothing: float,
) -> tuple[Floats, Floats]:
    """Priors and counts[voter, true, said], given what is believed of the items that were voted on."""
    labels = posteriors.shape[1]
    priors = posteriors[np.unique(item)].sum(axis=0) + smoothing
    counts = np.full((voters, labels, labels), float(smoothing))
    np.add.at(counts.transpose(0, 2, 1), (voter, said), posteriors[item])
    return priors / priors.sum(), counts


def _by_label(counts: Floats) -> Floats:
    """Each voter's confusions: of each true label, the shares of what was said."""
    totals = counts.sum(axis=2, keepdims=True)
    found: Floats = np.divide(counts, totals, out=np.full_like(counts, 1 / counts.shape[2]), where=totals > 0)
    return found


def _one_coin(counts: Floats) -> Floats:
    """One accuracy a voter, and what is wrong spread evenly."""
    labels = counts.shape[2]
    said = counts.sum(axis=(1, 2))
    right = (np.trace(counts, axis1=1, axis2=2) + BELIEF * BELIEVED_VOTES) / (said + BELIEVED_VOTES)
    wrong = (1 - right) / max(1, labels - 1)
    same = np.eye(labels)[None]
    found: Floats = same * right[:, None, None] + (1 - same) * wrong[:, None, None]
    return found


def _expect(
    priors: Floats,
    confusions: Floats,
    item: npt.NDArray[np.int64],
    voter: npt.NDArray[np.int64],
    said: npt.NDArray[np.int64],
    items: int,
) -> Floats:
    """What is to be believed of each item, given the voters; in logarithms, since many votes make small products."""
    with np.errstate(divide="ignore"):
        logs = np.repeat(np.log(priors)[None, :], items, axis=0)
        np.add.at(logs, item, np.log(confusions[voter, :, said]))
    logs -= logs.max(axis=1, keepdims=True)
    weights = np.exp(logs)
    found: Floats = weights / weights.sum(axis=1, keepdims=True)
    return found
