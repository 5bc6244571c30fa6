"""How sure a measured figure is: bootstrap intervals, paired differences, McNemar's test. Knows numpy alone.

Percentile bootstrap (Efron and Tibshirani 1993, chapters 13 and 16). Values of one cluster (the turns of a
conversation, say) are drawn together, since they are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.errors import InvalidInput

# Draws of one block: what a bootstrap holds in memory at once (32 MiB of indices).
_BLOCK = 4_000_000

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A figure over n values, and where it lies with the level's probability. NaN bounds: it cannot be said."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Paired:
    """The mean of b minus a over n pairs, its interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    n: int
    p_value: float


def interval(
    values: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The mean of `values` and its bootstrap interval; the same values in the same order give the same bounds.

    Where all values are equal the interval has no width, which for a few values says less than it seems to:
    ask for a least number of items beside it. Raises InvalidInput where there are no values or one is no number.
    """
    numbers = _numbers(values, "values")
    means = _resampled_means(numbers, _members(len(numbers), clusters), seed, resamples)
    low, high = _bounds(means, level)
    return Interval(float(numbers.mean()), low, high, len(numbers))


def interval_of(
    statistic: Callable[[Places], float | None],
    n: int,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
) -> Interval | None:
    """The same for a figure that is no mean: `statistic` gets the places (int64, 0 to n - 1, with repeats).

    It answers None where the places do not define it (one class only, say). None where all of them do not; bounds
    are NaN where under nine in ten of the draws do, since the rest would not be a fair sample.
    """
    found = intervals_of(
        lambda places: {"it": statistic(places)},
        n,
        clusters=clusters,
        seed=seed,
        resamples=resamples,
        level=level,
    )
    return found["it"]


def intervals_of(
    statistic: Callable[[Places], Mapping[str, float | None]],
    n: int,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
) -> dict[str, Interval | None]:
    """The same for several figures at once, by name, on the same draws."""
    if n < 1:
        raise InvalidInput("n is 0; a figure needs at least one value", param="n")
    whole = statistic(np.arange(n))
    members = _members(n, clusters)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in whole}
    for _ in range(resamples):
        if members is None:
            places = rng.integers(0, n, n)
        else:
            picked = rng.integers(0, len(members), len(members))
            places = np.concatenate([members[one] for one in picked])
        for name, value in statistic(places).items():
            if value is not None:
                drawn[name].append(value)
    return {
        name: None if value is None else _of_draws(value, drawn[name], n, resamples, level)
        for name, value in whole.items()
    }


def _of_draws(value: float, drawn: Sequence[float], n: int, resamples: int, level: float) -> Interval:
    if len(drawn) < 0.9 * resamples:
        return Interval(value, math.nan, math.nan, n)
    low, high = _bounds(np.array(drawn), level)
    return Interval(value, low, high, n)


def paired(
    a: Sequence[float],
    b: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Paired:
    """b minus a on the same items in the same order.

    The p-value is the share of draws around zero (differences centred, so that nothing differs) that lie as far
    out as the difference seen, (count + 1) / (resamples + 1): never 0. Raises InvalidInput as `interval` does and
    where a and b differ in length.
    """
    first, second = _numbers(a, "a"), _numbers(b, "b")
    if len(first) != len(second):
        raise InvalidInput(
            f"a has {len(first)} values and b has {len(second)}; pairs need the same items", param="b"
        )
    differences = second - first
    difference = float(differences.mean())
    means = _resampled_means(differences, _members(len(differences), clusters), seed, resamples)
    low, high = _bounds(means, level)
    # A hair of slack: sums of the same numbers in another order differ in their last bits.
    far = np.abs(means - difference) >= abs(difference) - 1e-12
    return Paired(difference, low, high, len(differences), float((far.sum() + 1) / (resamples + 1)))


def mcnemar(a_passed: Sequence[bool], b_passed: Sequence[bool]) -> float:
    """The exact two-sided p-value that a and b pass equally often (McNemar 1947, by the binomial distribution).

    Items on which both agree say nothing; where all do, it is 1.0. Raises InvalidInput where the lengths differ.
    """
    if len(a_passed) != len(b_passed):
        raise InvalidInput(
            f"a has {len(a_passed)} items and b has {len(b_passed)}; pairs need the same items",
            param="b_passed",
        )
    only_a = sum(1 for a, b in zip(a_passed, b_passed, strict=True) if a and not b)
    only_b = sum(1 for a, b in zip(a_passed, b_passed, strict=True) if b and not a)
    n = only_a + only_b
    if n == 0:
        return 1.0
    # In logarithms: 2 ** n is no float for the sizes that evals have.
    logs = np.array([_log_choose(n, k) for k in range(min(only_a, only_b) + 1)]) - n * math.log(2)
    top = float(logs.max())
    return min(1.0, 2 * math.exp(top) * float(np.exp(logs - top).sum()))


def _numbers(values: Sequence[float], name: str) -> Numbers:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise InvalidInput(f"{name} has no values; a figure needs at least one", param=name)
    if not np.isfinite(numbers).all():
        place = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise InvalidInput(f"{name}[{place}] is {numbers[place]}; each must be a finite number", param=name)
    return numbers


def _members(n: int, clusters: Sequence[Hashable] | None) -> list[Places] | None:
    """The places of each cluster, clusters in order of their first place; None where each place is its own."""
    if clusters is None:
        return None
    if len(clusters) != n:
        raise InvalidInput(f"clusters has {len(clusters)} names for {n} values", param="clusters")
    found: dict[Hashable, list[int]] = {}
    for place, name in enumerate(clusters):
        found.setdefault(name, []).append(place)
    return None if len(found) == n else [np.array(places) for places in found.values()]


def _resampled_means(numbers: Numbers, members: list[Places] | None, seed: int, resamples: int) -> Numbers:
    rng = np.random.default_rng(seed)
    if members is None:
        parts = [numbers[picked].mean(1) for picked in _draws(rng, len(numbers), resamples)]
    else:
        sums = np.array([numbers[places].sum() for places in members])
        counts = np.array([len(places) for places in members], dtype=np.float64)
        parts = [
            sums[picked].sum(1) / counts[picked].sum(1) for picked in _draws(rng, len(members), resamples)
        ]
    means: Numbers = np.concatenate(parts)
    return means


def _draws(rng: np.random.Generator, k: int, resamples: int) -> Iterator[Places]:
    """Blocks of shape (draws, k), together `resamples` draws with replacement of k clusters."""
    size = max(1, _BLOCK // k)
    for start in range(0, resamples, size):
        yield rng.integers(0, k, (min(size, resamples - start), k))


def _bounds(drawn: Numbers, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
