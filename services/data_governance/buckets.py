"""Goes over the hashes of all rows a share at a time, so that memory does not grow with every one of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from services.data_governance.rows import KeyColumns

Array = np.ndarray[Any, Any]
BUCKET_ROWS = 250_000


def buckets(keys: KeyColumns, name: str, alive: Array) -> Iterator[tuple[Array, Array]]:
    """(ordinals, keys) of the living rows, each bucket with all rows of some hashes, ordinals ascending.

    The key `name` is two 64-bit words of a hash a row; equal hashes are in one bucket.
    """
    living = np.flatnonzero(alive)
    parts = max(1, -(-len(living) // BUCKET_ROWS))
    share = (keys.column(name, 0)[living] % np.uint64(parts)).astype(np.uint16)
    for part in range(parts):
        ordinals = living[share == part]
        if len(ordinals):
            yield ordinals, np.stack([keys.column(name, at)[ordinals] for at in (0, 1)], axis=1)


def groups(found: Array) -> tuple[Array, Array]:
    """(order, starts): `order` sorts the rows of `found` (n, 2) by key, equal ones in their old order; `starts` are the
    places in it where a key is new."""
    order = np.lexsort((found[:, 1], found[:, 0]))
    ranked = found[order]
    new = np.ones(len(order), bool)
    new[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    return order, np.flatnonzero(new)
