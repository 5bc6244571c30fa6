"""Cuts texts into overlapping pieces of five characters and hashes them, all texts of a batch in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SIZE = 5
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FINISH = np.uint64(0xBF58476D1CE4E5B9)


def shingle_hashes(texts: Sequence[str]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(hashes, offsets): 64-bit hashes of all pieces, and where each text's begin, one more than there are texts.

    A text of less than five characters is one piece, filled up with NUL.
    """
    filled = [text if len(text) >= SIZE else text.ljust(SIZE, "\0") for text in texts]
    lengths = np.array([len(text) for text in filled], dtype=np.int64)
    codes = np.frombuffer("".join(filled).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    count = len(codes) - SIZE + 1
    if count < 1:
        return np.zeros(0, np.uint64), np.zeros(len(texts) + 1, np.uint64)
    hashes = np.zeros(count, np.uint64)
    for at in range(SIZE):
        hashes *= _MULTIPLIER
        hashes += codes[at : count + at]
    hashes ^= hashes >> np.uint64(29)
    hashes *= _FINISH
    hashes ^= hashes >> np.uint64(32)
    ends = np.cumsum(lengths)
    # Pieces that begin in one text and end in the next.
    across = np.ones(count, bool)
    for back in range(1, SIZE):
        across[ends[:-1] - back] = False
    offsets = np.concatenate([[0], np.cumsum(lengths - SIZE + 1)])
    return hashes[across], offsets.astype(np.uint64)
