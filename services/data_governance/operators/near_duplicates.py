"""Drops all but the first of rows that say nearly the same: MinHash signatures, banded, then compared.

Broder, "On the resemblance and containment of documents" (1997); the banding is that of Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", 3.4. Signatures are rensa's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rensa

from services.data_governance.buckets import BUCKET_ROWS
from services.data_governance.rows import Dropped, KeyColumns, Row, hash128, normalise_key
from services.data_governance.shingles import shingle_hashes
from shared.contracts.steps.near_duplicates import NearDuplicates

Array = np.ndarray[Any, Any]
# Two texts with a Jaccard of 0.8 share one of 18 bands of 7 with a probability of 0.986, of 0.85 with 0.999.
BANDS, BAND_ROWS = 18, 7
PERMUTATIONS = BANDS * BAND_ROWS
SEED = 42
PAIRS_AT_ONCE = 20_000
VERDICT = np.dtype([("drop", "?"), ("first", "<u4"), ("size", "<u4")])
_MIX = np.uint64(0x9E3779B97F4A7C15)


class NearDuplicateRows:
    """Groups are connected: a row that is like one row of a group belongs to it. A group's first row stays."""

    def __init__(self, step: NearDuplicates) -> None:
        self._params = step.params

    def keys(self, rows: Sequence[Row]) -> Mapping[str, Array]:
        hashes, offsets = shingle_hashes([self._text(row) for row in rows])
        made = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, SEED)
        digests = np.array(made.to_rows(), dtype=np.uint32).reshape(len(rows), PERMUTATIONS)
        bands = np.zeros((len(rows), BANDS), np.uint64, order="F")
        by_band = digests.reshape(len(rows), BANDS, BAND_ROWS).astype(np.uint64)
        for at in range(BAND_ROWS):
            bands *= _MIX
            bands += by_band[:, :, at]
            bands ^= bands >> np.uint64(29)
        if self._params.include_label:
            labels = b"".join([hash128(repr(row.label))[:8] for row in rows])
            bands ^= np.frombuffer(labels, dtype="<u8")[:, None]
        # Half of each number is plenty to compare by: two differ and agree in it once in 65,536.
        return {"bands": bands, "digest": digests.astype("<u2")}

    def settle(self, keys: KeyColumns, alive: Array) -> Array:
        group = np.arange(keys.rows, dtype=np.uint32)
        living = np.flatnonzero(alive).astype(np.uint32)
        shares = max(1, -(-len(living) // BUCKET_ROWS))
        for band in range(BANDS):
            for share in range(shares):
                values = keys.column("bands", band)[living]
                chosen = np.flatnonzero(values % np.uint64(shares) == share)
                values, members = values[chosen], living[chosen]
                for first, second in _neighbours(values, np.argsort(values, kind="stable")):
                    _join(group, members[first], members[second], keys, self._params.threshold)
        verdicts = np.zeros(keys.rows, VERDICT)
        first = _first(group)
        verdicts["first"] = first
        verdicts["size"] = np.bincount(first[living], minlength=keys.rows)[first]
        verdicts["drop"] = alive & (first != np.arange(keys.rows))
        return verdicts

    def dropped(self, row: Row, verdict: np.void) -> Dropped:
        return Dropped(
            row,
            "near_duplicates",
            f"one of {verdict['size']} rows that say nearly the same, and not the first of them",
        )

    def _text(self, row: Row) -> str:
        texts: Sequence[str] = row.texts()
        if self._params.on == "question" and row.messages is not None:
            texts = [m.content for m in row.messages if m.role == "user"]
        return "\n".join(map(normalise_key, texts))


def _neighbours(values: Array, order: Array) -> list[tuple[Array, Array]]:
    """Places (first, second) of rows that share this band: each with the one before it, and with the first of all."""
    ranked = values[order]
    new = np.ones(len(ranked), bool)
    new[1:] = ranked[1:] != ranked[:-1]
    second = np.flatnonzero(~new)
    leader = np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))[second]
    return [(order[second - 1], order[second]), (order[leader], order[second])]


def _first(group: Array) -> Array:
    """Follows each row to the first of its group."""
    while not np.array_equal(group, above := group[group]):
        group = above
    return group


def _join(group: Array, left: Array, right: Array, keys: KeyColumns, threshold: float) -> None:
    """Joins the groups of those pairs that are alike; pairs that are together already are not looked at again."""
    for start in range(0, len(left), PAIRS_AT_ONCE):
        a, b = left[start : start + PAIRS_AT_ONCE], right[start : start + PAIRS_AT_ONCE]
        group[:] = _first(group)
        apart = group[a] != group[b]
        a, b = a[apart], b[apart]
        if not len(a):
            continue
        wanted, places = np.unique(np.concatenate([a, b]), return_inverse=True)
        digests = keys.taken("digest", wanted)
        alike = (digests[places[: len(a)]] == digests[places[len(a) :]]).mean(axis=1) >= threshold
        for one, other in zip(a[alike].tolist(), b[alike].tolist(), strict=True):
            _unite(group, one, other)


def _unite(group: Array, one: int, other: int) -> None:
    while group[one] != one:
        one = int(group[one])
    while group[other] != other:
        other = int(group[other])
    group[max(one, other)] = min(one, other)
