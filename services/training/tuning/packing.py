"""Sequences put behind one another in packs of bounded length: best fit decreasing, in a seeded order. Pure.

By what they were made stands in each checkpoint, so that a machine with more memory resumes the same run.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

_SPAN = 1024


def best_fit(lengths: Sequence[int], rows: Sequence[int], capacity: int) -> list[list[int]]:
    """`rows` in packs of at most `capacity` tokens: the longest first, each where the least room is left over.

    `lengths` is by row; none of them may be over `capacity`.
    """
    packs: list[list[int]] = []
    # (room, pack) in order; -1 makes a pack of exactly this room the first that is found.
    rooms: list[tuple[int, int]] = []
    for row in sorted(rows, key=lambda row: -lengths[row]):
        length = lengths[row]
        assert length <= capacity, f"row {row} of {length} tokens fits into no pack of {capacity}"
        place = bisect_left(rooms, (length, -1))
        if place == len(rooms):
            packs.append([])
            room, pack = capacity, len(packs) - 1
        else:
            room, pack = rooms.pop(place)
        packs[pack].append(row)
        insort(rooms, (room - length, pack))
    return packs


def pack_order(lengths: Sequence[int], epochs: int, capacity: int, seed: int) -> list[list[list[int]]]:
    """The packs of each epoch, in the order in which they are seen: every row once an epoch.

    Rows are shuffled by (seed, epoch) and packed in spans of a thousand, whose packs are then shuffled, so that other
    rows meet in each epoch.
    """
    return [_epoch(lengths, capacity, np.random.default_rng((seed, epoch))) for epoch in range(epochs)]


def _epoch(lengths: Sequence[int], capacity: int, rng: np.random.Generator) -> list[list[int]]:
    shuffled = rng.permutation(len(lengths)).tolist()
    packs: list[list[int]] = []
    for start in range(0, len(shuffled), _SPAN):
        packs += best_fit(lengths, shuffled[start : start + _SPAN], capacity)
    return [packs[place] for place in rng.permutation(len(packs))]


def fill(lengths: Sequence[int], batch_size: int) -> float:
    """Share of the positions that are tokens where `lengths` stand in batches, each padded to its longest."""
    sizes = np.asarray(lengths)
    padded = sum(
        int(sizes[start : start + batch_size].max()) * len(sizes[start : start + batch_size])
        for start in range(0, len(sizes), batch_size)
    )
    return float(sizes.sum() / padded)
