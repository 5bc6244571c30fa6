"""Drops rows that are too short or too long, in characters or in user turns."""

from __future__ import annotations

from collections.abc import Sequence

from services.data_governance.rows import Dropped, Outcome, Row
from shared.contracts.steps.length_bounds import LengthBounds


class Lengths:
    """Rules `too_short`, `too_long`, `too_few_turns`, `too_many_turns`; the reason names value and limit."""

    def __init__(self, step: LengthBounds) -> None:
        self._params = step.params

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            fault = self._fault(row)
            if fault:
                outcome.dropped.append(Dropped(row, *fault))
            else:
                outcome.kept.append(row)
        return outcome

    def _fault(self, row: Row) -> tuple[str, str] | None:
        limits = self._params
        chars = sum(len(text) for text in row.texts())
        if chars < limits.min_chars:
            return "too_short", f"{chars} characters, at least {limits.min_chars} are asked for"
        if chars > limits.max_chars:
            return "too_long", f"{chars} characters, at most {limits.max_chars} are allowed"
        if row.messages is None:
            return None
        turns = sum(m.role == "user" for m in row.messages)
        if turns < limits.min_turns:
            return "too_few_turns", f"{turns} user turns, at least {limits.min_turns} are asked for"
        if turns > limits.max_turns:
            return "too_many_turns", f"{turns} user turns, at most {limits.max_turns} are allowed"
        return None
