"""Drops a fair draw of the rows of labels that are too frequent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.data_governance.buckets import groups
from services.data_governance.rows import Dropped, KeyColumns, Row, hash128
from shared.contracts.steps.balance_labels import BalanceLabels

# Rows that the label had, and how many of them may stay.
VERDICT = np.dtype([("drop", "?"), ("rows", "<u8"), ("most", "<u8")])
_NONE = bytes(16)


class Balanced:
    """Rule `over_represented`. Of a label's rows those with the lowest hashes of id and seed stay."""

    def __init__(self, step: BalanceLabels) -> None:
        self._params = step.params

    def keys(self, rows: Sequence[Row]) -> Mapping[str, np.ndarray[Any, Any]]:
        labels = b"".join([_NONE if row.label is None else hash128(row.label) for row in rows])
        ranks = b"".join([hash128(f"{self._params.seed}\n{row.row_id}")[:8] for row in rows])
        return {
            "labelled": np.array([row.label is not None for row in rows], bool),
            "label": np.frombuffer(labels, dtype="<u8").reshape(-1, 2),
            "rank": np.frombuffer(ranks, dtype="<u8"),
        }

    def settle(self, keys: KeyColumns, alive: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        verdicts = np.zeros(keys.rows, VERDICT)
        ordinals = np.flatnonzero(alive & keys.column("labelled"))
        if not len(ordinals):
            return verdicts
        order, starts = groups(np.stack([keys.column("label", at)[ordinals] for at in (0, 1)], axis=1))
        sizes = np.diff(np.append(starts, len(order)))
        most = self._most(sizes)
        ranks = keys.column("rank")
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            members = ordinals[order[start : start + size]]
            verdicts["rows"][members], verdicts["most"][members] = size, most
            if size > most:
                verdicts["drop"][members[np.argsort(ranks[members], kind="stable")[most:]]] = True
        return verdicts

    def _most(self, sizes: np.ndarray[Any, Any]) -> int:
        limits = [] if self._params.max_rows is None else [self._params.max_rows]
        counted = sizes[sizes >= self._params.min_rows]
        if self._params.max_ratio is not None and len(counted):
            limits.append(int(self._params.max_ratio * int(counted.min())))
        return min(limits, default=int(sizes.max()))

    def dropped(self, row: Row, verdict: np.void) -> Dropped:
        return Dropped(
            row,
            "over_represented",
            f"its label has {verdict['rows']} rows, and at most {verdict['most']} may stay",
        )
