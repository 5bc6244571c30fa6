"""Intervals, paired differences and McNemar's test, against values known from textbooks and from theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import InvalidInput
from shared.statistics import interval, interval_of, mcnemar, paired

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(SCORES)
def test_an_interval_holds_its_mean_and_stays_among_the_values(values: list[float]) -> None:
    found = interval(values, resamples=200)
    assert found.n == len(values)
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == interval(values, resamples=200)


def test_an_interval_is_as_wide_as_the_normal_law_says() -> None:
    values = np.random.default_rng(5).normal(3, 2, 4000)
    found = interval(values.tolist(), seed=1)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.high - found.low == pytest.approx(2 * half, rel=0.08)


def test_95_of_100_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for trial in range(400):
        found = interval((rng.random(80) < 0.7).astype(float).tolist(), seed=trial, resamples=400)
        hits += found.low <= 0.7 <= found.high
    assert 0.91 <= hits / 400 <= 0.98


def test_values_of_one_cluster_count_as_one() -> None:
    # Ten conversations whose eight turns all score alike: eight times the values and no more knowledge.
    means = np.random.default_rng(2).random(10)
    turns = np.repeat(means, 8).tolist()
    names = np.repeat(np.arange(10), 8).tolist()
    alone, clustered, loose = interval(means.tolist()), interval(turns, clusters=names), interval(turns)
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=1e-6)
    assert loose.high - loose.low < 0.5 * (clustered.high - clustered.low)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_a_paired_difference_turns_round_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    forth, back = paired(a, b, resamples=300), paired(b, a, resamples=300)
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.low == pytest.approx(-back.high, abs=1e-9)
    assert forth.p_value == pytest.approx(back.p_value)
    assert 0 < forth.p_value <= 1


def test_pairing_sees_what_two_loose_intervals_hide() -> None:
    rng = np.random.default_rng(3)
    a = rng.random(300)
    b = np.clip(a + 0.03 + rng.normal(0, 0.05, 300), 0, None)
    found = paired(a.tolist(), b.tolist())
    assert found.low > 0
    assert found.p_value < 0.01
    assert interval(a.tolist()).high > interval(b.tolist()).low


def test_no_difference_is_significant_in_one_of_twenty() -> None:
    rng = np.random.default_rng(7)
    significant = 0
    for trial in range(300):
        a, b = rng.random(60), rng.random(60)
        significant += paired(a.tolist(), b.tolist(), seed=trial, resamples=300).p_value < 0.05
    assert 0.02 <= significant / 300 <= 0.09


def test_equal_sides_differ_by_nothing() -> None:
    found = paired([0.2, 0.9, 0.4], [0.2, 0.9, 0.4])
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    # 2 * P(X <= min) under Binomial(n, 1/2), worked out by hand; one pair of equal counts is capped at 1.
    [(0, 5, 2 / 32), (1, 9, 2 * 11 / 1024), (4, 4, 1.0), (0, 0, 1.0), (3, 0, 2 / 8)],
)
def test_mcnemar_is_the_exact_binomial(only_a: int, only_b: int, expected: float) -> None:
    a = [True] * only_a + [False] * only_b + [True, False]
    b = [False] * only_a + [True] * only_b + [True, False]
    assert mcnemar(a, b) == pytest.approx(expected)
    assert mcnemar(b, a) == pytest.approx(expected)


def test_mcnemar_bears_fifty_thousand_items() -> None:
    # 25,300 of 50,000: 2.683 standard deviations, with the correction for whole numbers 2.679.
    a, b = [True] * 25_300 + [False] * 24_700, [False] * 25_300 + [True] * 24_700
    assert mcnemar(a, b) == pytest.approx(math.erfc(599 / math.sqrt(50_000) / math.sqrt(2)), rel=1e-3)


def test_a_figure_of_places_agrees_with_the_mean() -> None:
    values = np.random.default_rng(8).random(200)
    by_place = interval_of(lambda places: float(values[places].mean()), 200, resamples=2000)
    direct = interval(values.tolist(), resamples=2000)
    assert by_place is not None
    assert by_place.mean == pytest.approx(direct.mean)
    assert by_place.low == pytest.approx(direct.low, abs=0.01)
    clustered = interval_of(
        lambda places: float(values[places].mean()), 200, clusters=[0] * 200, resamples=50
    )
    assert clustered is not None
    assert clustered.low == pytest.approx(clustered.high)


def test_a_figure_that_most_draws_do_not_define_has_no_bounds() -> None:
    labels = np.array([1] + [0] * 30)

    def of_both(places: np.ndarray) -> float | None:
        return 1.0 if len(set(labels[places])) == 2 else None

    found = interval_of(of_both, 31, resamples=100)
    assert found is not None
    assert found.mean == 1.0
    assert math.isnan(found.low)
    assert interval_of(lambda places: None, 5) is None


def test_what_cannot_be_measured_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidInput, match="values has no values"):
        interval([])
    with pytest.raises(InvalidInput, match=r"values\[1\] is nan"):
        interval([0.1, math.nan])
    with pytest.raises(InvalidInput, match="a has 1 values and b has 2"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(InvalidInput, match="clusters has 1 names for 2"):
        interval([1.0, 2.0], clusters=["one"])
    with pytest.raises(InvalidInput, match="same items"):
        mcnemar([True], [])


def test_clusters_of_one_value_each_change_nothing() -> None:
    values = np.random.default_rng(9).random(50)
    names = [f"item {n}" for n in range(50)]
    assert interval(values.tolist(), clusters=names) == interval(values.tolist())

    def mean(places: np.ndarray) -> float:
        return float(values[places].mean())

    assert interval_of(mean, 50, clusters=names) == interval_of(mean, 50)
