"""Dawid-Skene: one round by hand, and voters whose faults are known."""

from __future__ import annotations

import numpy as np
import pytest

from services.data_governance.labelling.dawid_skene import BELIEF, fit


def test_one_round_is_the_hand_computed_one() -> None:
    # Item 0: both say 0. Item 1: voter 0 says 0, voter 1 says 1. Start: [1, 0], [1/2, 1/2]; priors 3/4, 1/4.
    # Voter 0 always says 0. Voter 1: of true 0 (weight 3/2) says 0 in 2/3; of true 1 (weight 1/2) always says 1.
    votes = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 1)]
    fitted = fit(votes, items=2, voters=2, labels=2, smoothing=0, max_rounds=1)
    assert fitted.priors == pytest.approx([3 / 4, 1 / 4])
    assert fitted.confusions[0] == pytest.approx(np.array([[1, 0], [1, 0]]))
    assert fitted.confusions[1] == pytest.approx(np.array([[2 / 3, 1 / 3], [0, 1]]))
    # Item 1: 3/4 * 1 * 1/3 against 1/4 * 1 * 1.
    assert fitted.posteriors == pytest.approx(np.array([[1, 0], [1 / 2, 1 / 2]]))


def test_a_good_voter_outweighs_two_bad_ones() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 600)
    accuracies = (0.95, 0.45, 0.45, 0.9)
    votes = [
        (item, voter, int(true if rng.random() < right else (true + rng.integers(1, 3)) % 3))
        for item, true in enumerate(truth)
        for voter, right in enumerate(accuracies)
    ]
    fitted = fit(votes, items=600, voters=4, labels=3)
    right = (fitted.posteriors.argmax(axis=1) == truth).mean()
    said = np.array([label for *_, label in votes]).reshape(600, 4)
    majority = np.array([np.bincount(row, minlength=3).argmax() for row in said])
    assert right > (majority == truth).mean() + 0.02
    measured = [fitted.confusions[voter].trace() / 3 for voter in range(4)]
    assert measured == pytest.approx(accuracies, abs=0.07)


def test_an_item_without_votes_gets_the_priors() -> None:
    fitted = fit([(0, 0, 0), (1, 0, 0), (2, 0, 1)], items=4, voters=1, labels=2)
    assert fitted.posteriors[3] == pytest.approx(fitted.priors)


def test_voters_who_only_ever_say_one_label_still_tell_something() -> None:
    # Voter 0 says 0 of items 0 to 3, voter 1 says 1 of items 4 to 6, voter 2 says 2 of item 7: nobody contradicts.
    votes = [(n, 0, 0) for n in range(4)] + [(n, 1, 1) for n in range(4, 7)] + [(7, 2, 2)]
    fitted = fit(votes, items=8, voters=3, labels=3, one_coin=True)
    assert fitted.posteriors.argmax(axis=1).tolist() == [0] * 4 + [1] * 3 + [2]
    # Where nobody is ever contradicted, what is believed of functions at first is all that there is to believe.
    assert fitted.posteriors.max(axis=1) == pytest.approx(BELIEF, abs=0.01)
