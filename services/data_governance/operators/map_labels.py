"""Renames and merges labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.data_governance.rows import Changed, Dropped, Outcome, Row
from shared.contracts.steps.map_labels import MapLabels
from shared.text.pii import narrow


class Labels:
    """Rules `label_renamed`, `label_defaulted`, and `unknown_label` for drops."""

    def __init__(self, step: MapLabels) -> None:
        params = step.params
        self._params = params
        self._new = {self._key(old): new for old, new in params.labels.items()}
        self._known = frozenset(params.labels.values())

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            label, rule = self._label(row.label)
            if rule == "unknown_label":
                outcome.dropped.append(
                    Dropped(row, rule, f"its label is none of {len(self._new)} old and new names")
                )
                continue
            after = replace(row, label=label) if label != row.label else row
            outcome.kept.append(after)
            if after is not row:
                outcome.changed.append(Changed(row, after, {rule: 1}))
        return outcome

    def _label(self, label: str | None) -> tuple[str | None, str]:
        """The new label, and the rule that gave it."""
        if label is None:
            return None, ""
        new = self._new.get(self._key(label))
        if new is not None:
            return new, "label_renamed"
        if label in self._known or self._params.unknown == "keep":
            return label, ""
        if self._params.unknown == "drop":
            return label, "unknown_label"
        return self._params.default, "label_defaulted"

    def _key(self, label: str) -> str:
        return narrow(label).strip().casefold() if self._params.fold else label
