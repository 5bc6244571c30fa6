"""Packs: every row once an epoch, none too long, little room left over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.tuning.packing import best_fit, fill, pack_order


@given(st.lists(st.integers(1, 64), min_size=1, max_size=80), st.integers(64, 200))
def test_every_row_lies_in_one_pack_and_none_is_over_its_length(lengths: list[int], capacity: int) -> None:
    packs = best_fit(lengths, range(len(lengths)), capacity)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in pack) <= capacity for pack in packs)


@given(st.lists(st.integers(1, 64), min_size=2, max_size=80))
def test_no_pack_is_opened_while_its_row_fits_into_another(lengths: list[int]) -> None:
    packs = best_fit(lengths, range(len(lengths)), 64)
    for later in range(1, len(packs)):
        # The longest of a pack was the first in it, when everything in the packs before was at least as long.
        opener = lengths[packs[later][0]]
        for earlier in packs[:later]:
            assert sum(lengths[row] for row in earlier if lengths[row] >= opener) + opener > 64


def test_a_row_goes_where_the_least_room_is_left() -> None:
    assert best_fit([6, 5, 4, 5], range(4), 10) == [[0, 2], [1, 3]]


def test_packs_of_mixed_lengths_are_nearly_full() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 3000).tolist()
    (packs,) = pack_order(lengths, 1, 1024, seed=1)
    assert sum(lengths) / (1024 * len(packs)) > 0.98


def test_each_epoch_has_every_row_once_and_the_seed_gives_the_same() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 300).tolist()
    first, second = pack_order(lengths, 2, 100, seed=3)
    for epoch in (first, second):
        assert sorted(row for pack in epoch for row in pack) == list(range(300))
    assert first != second
    assert pack_order(lengths, 2, 100, seed=3) == [first, second]
    assert pack_order(lengths, 2, 100, seed=4) != [first, second]


def test_a_row_longer_than_a_pack_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="fits into no pack"):
        best_fit([11], [0], 10)


def test_fill_is_the_share_of_positions_that_are_tokens() -> None:
    assert fill([1, 3, 2, 2], 2) == pytest.approx(8 / 10)
    assert fill([5], 4) == 1.0
