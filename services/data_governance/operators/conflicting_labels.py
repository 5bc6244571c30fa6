"""Settles rows that ask the same and say different things: by majority, or by dropping them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.data_governance.buckets import buckets, groups
from services.data_governance.rows import Dropped, KeyColumns, Row, hash128, normalise_key
from shared.contracts.steps.conflicting_labels import ConflictingLabels

# How many values the question got, the votes of this row's own, all votes, and whether the best value is alone.
VERDICT = np.dtype([("drop", "?"), ("values", "<u4"), ("mine", "<u4"), ("votes", "<u4"), ("tied", "?")])
_NONE = bytes(16)


class Conflicts:
    """Each row has a vote. Rows without a label (or without an answer) have none and stay."""

    def __init__(self, step: ConflictingLabels) -> None:
        self._params = step.params

    def keys(self, rows: Sequence[Row]) -> Mapping[str, np.ndarray[Any, Any]]:
        ballots = [self._ballot(row) for row in rows]
        asked = b"".join([ballot[0] if ballot else _NONE for ballot in ballots])
        said = b"".join([ballot[1] if ballot else _NONE for ballot in ballots])
        return {
            "votes": np.array([ballot is not None for ballot in ballots], bool),
            "asked": np.frombuffer(asked, dtype="<u8").reshape(-1, 2),
            "said": np.frombuffer(said, dtype="<u8").reshape(-1, 2),
        }

    def settle(self, keys: KeyColumns, alive: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        verdicts = np.zeros(keys.rows, VERDICT)
        for ordinals, asked in buckets(keys, "asked", alive & keys.column("votes")):
            order, starts = groups(asked)
            ends = np.append(starts[1:], len(order))
            for at in np.flatnonzero(ends - starts > 1):
                members = ordinals[order[starts[at] : ends[at]]]
                self._settle_one(keys.taken("said", members), members, verdicts)
        return verdicts

    def _settle_one(
        self, said: np.ndarray[Any, Any], members: np.ndarray[Any, Any], verdicts: np.ndarray[Any, Any]
    ) -> None:
        values = [value.tobytes() for value in said]
        votes = Counter(values)
        if len(votes) < 2:
            return
        best = max(votes.values())
        tied = sum(count == best for count in votes.values()) > 1
        all_go = tied or self._params.resolution == "drop"
        for ordinal, value in zip(members, values, strict=True):
            drop = all_go or votes[value] < best
            verdicts[ordinal] = (drop, len(votes), votes[value], len(values), tied)

    def dropped(self, row: Row, verdict: np.void) -> Dropped:
        what = "label" if self._params.compare == "label" else "answer"
        reason = f"rows with the same question have {verdict['values']} different {what}s"
        if self._params.resolution == "majority":
            if verdict["tied"]:
                reason += ", and no majority"
            else:
                reason = f"its {what} has {verdict['mine']} of {verdict['votes']} votes for the same question"
        return Dropped(row, "conflicting_labels", reason)

    def _ballot(self, row: Row) -> tuple[bytes, bytes] | None:
        """What was asked, and what this row says of it."""
        if self._params.compare == "label":
            if row.label is None:
                return None
            said = row.label
            asked = (
                [m.content for m in row.messages if m.role == "user"] if row.messages else [row.text or ""]
            )
        else:
            if not row.messages or row.messages[-1].role != "assistant":
                return None
            said = row.messages[-1].content
            asked = [m.content for m in row.messages[:-1]]
        question = "\x1f".join(normalise_key(text) for text in asked)
        return hash128(question), hash128(normalise_key(said))
