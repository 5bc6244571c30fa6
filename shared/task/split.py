"""Who gets which version of a task: by weights, and the same one each time. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def choose(task_id: str, weights: Sequence[tuple[int, int]], key: str) -> int:
    """The version for `key`: a place on a line that the versions share by weight, in ascending order.

    The place is a hash of task and key, so it is even and stays; where a weight grows, only keys beside it move.
    """
    digest = hashlib.blake2b(f"{task_id}\n{key}".encode(), digest_size=8).digest()
    total = sum(weight for _, weight in weights)
    place = int.from_bytes(digest) * total >> 64
    for version, weight in sorted(weights):
        place -= weight
        if place < 0:
            return version
    raise AssertionError("the weights of a split are positive")
