"""Drops all but the first of rows that say the same."""

from __future__ import annotations

from collections.abc import Sequence

from services.data_governance.rows import Dropped, Outcome, Row, hash128, normalise_key
from shared.contracts.steps.exact_duplicates import ExactDuplicates


class Duplicates:
    """Remembers a 128-bit hash of every row it has seen: about 100 bytes of memory a distinct row."""

    needs_all = False

    def __init__(self, step: ExactDuplicates) -> None:
        self._params = step.params
        self._seen: set[bytes] = set()

    def observe(self, rows: Sequence[Row]) -> None:
        """Nothing to learn ahead: the first row of each kind is kept."""

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            key = hash128(self._key(row))
            if key in self._seen:
                outcome.dropped.append(
                    Dropped(row, "exact_duplicates", "an earlier row has the same content")
                )
            else:
                self._seen.add(key)
                outcome.kept.append(row)
        return outcome

    def _key(self, row: Row) -> str:
        # The separators are control characters that cannot be mistaken for a boundary within a normalised text.
        parts = [repr(row.label)] if self._params.include_label else []
        roles = tuple(m.role for m in row.messages) if row.messages is not None else ("text",)
        for role, text in zip(roles, row.texts(), strict=True):
            said = normalise_key(text) if self._params.normalised else text
            parts += [role, str(len(said)), said]
        return "\x1f".join(parts)
