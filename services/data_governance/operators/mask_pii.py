"""Replaces personal data by typed placeholders, in the texts, the label, the id and the other columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from services.data_governance.pii import find, mask
from services.data_governance.rows import Changed, Outcome, Row
from shared.contracts.recipe import MaskPii, PiiType


class Mask:
    """Rules are the types: `pii_phone`, `pii_email`, `pii_id_card`, `pii_bank_card`; each counts what it replaced."""

    needs_all = False

    def __init__(self, step: MaskPii) -> None:
        self._types = tuple(step.params.types)
        self._meta = step.params.meta

    def observe(self, rows: Sequence[Row]) -> None:
        """Nothing to learn."""

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            after, counts = mask_row(row, self._types, meta=self._meta)
            outcome.kept.append(after)
            if counts:
                rules = {f"pii_{kind}": count for kind, count in counts.items()}
                outcome.changed.append(Changed(row, after, rules))
        return outcome


def mask_row(
    row: Row, types: Sequence[PiiType] = ("email", "phone", "id_card", "bank_card"), *, meta: bool = True
) -> tuple[Row, Counter[PiiType]]:
    """The row without personal data of these types, and how many of each were replaced; itself when none."""
    counts: Counter[PiiType] = Counter()

    def masked(text: str) -> str:
        clean, found = mask(text, types)
        if found:
            counts.update(found)
        return clean

    texts = [masked(text) for text in row.texts()]
    after = row.with_texts(texts) if counts else row
    label = masked(row.label) if row.label is not None else None
    identity = masked(row.id)
    others = row.meta
    if meta and row.meta != "{}" and find(row.meta):
        value = _walk(json.loads(row.meta), masked)
        others = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if not counts:
        return row, counts
    return replace(after, label=label, id=identity, meta=others), counts


def count_pii(row: Row) -> Counter[PiiType]:
    """How much personal data of each type is left in any column of the row."""
    return Counter(
        found.type for text in (*row.texts(), row.label or "", row.id, row.meta) for found in find(text)
    )


def _walk(value: Any, masked: Any) -> Any:
    """JSON with every string, and every number that is personal data as digits, masked. Keys are column names."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {key: _walk(item, masked) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk(item, masked) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and find(str(value)):
        return masked(str(value))
    return value
