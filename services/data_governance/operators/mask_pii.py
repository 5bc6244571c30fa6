"""Replaces personal data by typed placeholders, in the texts, the label, the id and the other columns."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from services.data_governance.rows import Changed, Outcome, Row
from shared.contracts.steps.mask_pii import MaskPii, PiiType
from shared.text.pii import find, mask, might_have

# What spreadsheets and data frames make of a column of whole numbers once one of them is missing.
_WHOLE_AS_FLOAT = re.compile(r"[0-9]{10,19}\.0")


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
    if meta and any(map(find, _meta_texts(row.meta))):
        value = _walk(json.loads(row.meta), masked)
        others = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if not counts:
        return row, counts
    return replace(after, label=label, id=identity, meta=others), counts


def count_pii(row: Row) -> Counter[PiiType]:
    """How much personal data of each type is left in any column of the row, names of fields included."""
    texts = (*row.texts(), row.label or "", row.id, *_meta_texts(row.meta))
    found = [item.type for text in texts for item in find(text)]
    return Counter(found) if found else Counter()


def _walk(value: Any, masked: Callable[[str], str]) -> Any:
    """JSON with every string, and every number that is personal data as digits, masked. Keys are column names."""
    if isinstance(value, dict):
        return {key: _walk(item, masked) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk(item, masked) for item in value]
    text = _leaf(value)
    if text is None:
        return value
    clean = masked(text)
    return value if clean == text else clean


def _meta_texts(meta: str) -> Iterable[str]:
    """What the other columns say. Their JSON says the same, but for escapes (`\\n` before a number) and `.0`."""
    if not might_have(meta):
        return ()
    return _leaves(json.loads(meta)) if "\\" in meta or ".0" in meta else (meta,)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif (text := _leaf(value)) is not None:
        yield text


def _leaf(value: Any) -> str | None:
    """The text in which personal data may be found: of a number its digits, and `13800138000.0` is a number."""
    if isinstance(value, str):
        return value.removesuffix(".0") if _WHOLE_AS_FLOAT.fullmatch(value) else value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
