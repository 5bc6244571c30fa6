"""Drops all but the first of rows that say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.data_governance.buckets import buckets, groups
from services.data_governance.pairs import answers
from services.data_governance.rows import Dropped, KeyColumns, Row, hash128, normalise_key
from shared.contracts.steps.exact_duplicates import ExactDuplicates

# Number of the first row that says it, and how many do.
VERDICT = np.dtype([("drop", "?"), ("first", "<u4"), ("size", "<u4")])


class Duplicates:
    """A 128-bit hash of every row is compared: 2**64 rows are needed before two are likely to collide."""

    def __init__(self, step: ExactDuplicates) -> None:
        self._params = step.params

    def keys(self, rows: Sequence[Row]) -> Mapping[str, np.ndarray[Any, Any]]:
        hashes = b"".join([hash128(self._key(row)) for row in rows])
        return {"content": np.frombuffer(hashes, dtype="<u8").reshape(-1, 2)}

    def settle(self, keys: KeyColumns, alive: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        verdicts = np.zeros(keys.rows, VERDICT)
        for ordinals, found in buckets(keys, "content", alive):
            order, starts = groups(found)
            sizes = np.diff(np.append(starts, len(order)))
            rows = ordinals[order]
            first = np.repeat(rows[starts], sizes)
            verdicts["first"][rows], verdicts["size"][rows] = first, np.repeat(sizes, sizes)
            verdicts["drop"][rows] = first != rows
        return verdicts

    def dropped(self, row: Row, verdict: np.void) -> Dropped:
        alike = int(verdict["size"])
        return Dropped(
            row, "exact_duplicates", f"an earlier row has the same content, as {alike} rows have in all"
        )

    def _key(self, row: Row) -> str:
        # The separators are control characters that cannot be mistaken for a boundary within a normalised text.
        parts = [repr(row.label)] if self._params.include_label else []
        roles = tuple(m.role for m in row.messages) if row.messages is not None else ("text",)
        for role, text in zip(roles, row.texts(), strict=True):
            said = normalise_key(text) if self._params.normalised else text
            parts += [role, str(len(said)), said]
        # Of two pairs that share the better answer, each has something to tell.
        for answer in answers(row.meta):
            said = normalise_key(answer) if self._params.normalised else answer
            parts += ["answer", str(len(said)), said]
        return "\x1f".join(parts)
