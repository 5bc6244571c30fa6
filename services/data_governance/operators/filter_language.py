"""Drops rows in languages that a dataset is not meant to have."""

from __future__ import annotations

from collections.abc import Sequence

from services.data_governance.languages import guess
from services.data_governance.operators.passes import Fault, judged
from services.data_governance.rows import Outcome, Row
from shared.contracts.steps.filter_language import FilterLanguage


class Languages:
    """Rules `language`, and `language_undecided` where the recipe drops such rows."""

    def __init__(self, step: FilterLanguage) -> None:
        self._params = step.params
        self._keep = frozenset(step.params.keep)
        given = step.params.candidates
        self._candidates = None if given is None else self._keep | frozenset(given)

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        return judged(rows, self._fault)

    def _fault(self, row: Row) -> Fault:
        params = self._params
        found = guess("\n".join(row.texts()), self._candidates, params.min_letters)
        if found is None or found.probability < params.min_probability:
            if params.undecided == "keep":
                return None
            why = "it has too few letters" if found is None else f"the likeliest has {found.probability:.2f}"
            return "language_undecided", f"its language cannot be told: {why}"
        if found.language in self._keep:
            return None
        kept = ", ".join(sorted(self._keep))
        return "language", f"it is in `{found.language}` ({found.probability:.2f}); kept are {kept}"
