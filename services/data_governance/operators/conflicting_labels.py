"""Settles rows that ask the same and say different things: by majority, or by dropping them all."""

from __future__ import annotations

from collections.abc import Sequence

from services.data_governance.rows import Dropped, Outcome, Row, hash128, normalise_key
from shared.contracts.steps.conflicting_labels import ConflictingLabels


class Conflicts:
    """Counts votes over the whole source first. Rows without a label (or without an answer) have no vote and stay."""

    needs_all = True

    def __init__(self, step: ConflictingLabels) -> None:
        self._params = step.params
        # question -> the value of its first row, or once two values met, the votes of each
        self._votes: dict[bytes, bytes | dict[bytes, int]] = {}
        self._counts: dict[bytes, int] = {}

    def observe(self, rows: Sequence[Row]) -> None:
        for row in rows:
            ballot = self._ballot(row)
            if ballot is None:
                continue
            question, value = ballot
            held = self._votes.setdefault(question, value)
            if isinstance(held, dict):
                held[value] = held.get(value, 0) + 1
            elif held == value:
                self._counts[question] = self._counts.get(question, 0) + 1
            else:
                self._votes[question] = {held: self._counts.pop(question), value: 1}

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            reason = self._reason(row)
            if reason is None:
                outcome.kept.append(row)
            else:
                outcome.dropped.append(Dropped(row, "conflicting_labels", reason))
        return outcome

    def _reason(self, row: Row) -> str | None:
        ballot = self._ballot(row)
        votes = self._votes.get(ballot[0]) if ballot else None
        if ballot is None or not isinstance(votes, dict):
            return None
        what = "label" if self._params.compare == "label" else "answer"
        if self._params.resolution == "drop":
            return f"rows with the same question have {len(votes)} different {what}s"
        best = max(votes.values())
        mine = votes[ballot[1]]
        if sum(count == best for count in votes.values()) > 1:
            return f"rows with the same question have {len(votes)} different {what}s, and no majority"
        return (
            None
            if mine == best
            else f"its {what} has {mine} of {sum(votes.values())} votes for the same question"
        )

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
