"""Drops rows without text and conversations with a blank message."""

from __future__ import annotations

from collections.abc import Sequence

from services.data_governance.rows import Dropped, Outcome, Row
from shared.contracts.steps.drop_empty import DropEmpty


class Empty:
    """Rules `empty` (no text at all) and `empty_message` (one of the messages is blank)."""

    def __init__(self, step: DropEmpty) -> None:
        self._step = step

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            said = row.said()
            blank = [index for index, text in enumerate(said) if not text or text.isspace()]
            if len(blank) == len(said):
                outcome.dropped.append(Dropped(row, "empty", "the row has no text"))
            elif blank:
                outcome.dropped.append(Dropped(row, "empty_message", f"message {blank[0] + 1} is blank"))
            else:
                outcome.kept.append(row)
        return outcome
