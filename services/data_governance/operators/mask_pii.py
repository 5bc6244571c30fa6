"""Masks, hashes, flags or drops personal data, in the texts, the label, the id and the other columns."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from services.data_governance.pseudonyms import pseudonym
from services.data_governance.rows import Changed, Dropped, Outcome, Row
from shared.contracts.steps.mask_pii import CORE_TYPES, MaskPii, MaskPiiParams, PiiType
from shared.text import pii

# What spreadsheets and data frames make of a column of whole numbers once one of them is missing.
_WHOLE_AS_FLOAT = re.compile(r"[0-9]{10,19}\.0")
# What a column's name says of its values, where a word has to: {"联系人": "李明"}.
_TOLD_BY_WORDS = frozenset({"name", "passport"})
FLAG = "pii"

Written = Callable[[PiiType, str], str]


class Mask:
    """Rules: `pii_phone` and the like for what was replaced or dropped, `pii_flagged_phone` for flags."""

    def __init__(self, step: MaskPii) -> None:
        params = step.params
        self._meta = params.meta
        self._written = _writer(params)
        by_action = {
            action: tuple(kind for kind in params.types if params.action_of(kind) == action)
            for action in ("mask", "hash", "drop", "flag")
        }
        self._replaced = (*by_action["mask"], *by_action["hash"])
        self._dropped, self._flagged = by_action["drop"], by_action["flag"]
        self._looked_for = (*self._dropped, *self._flagged)

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            seen = count_pii(row, self._looked_for, meta=self._meta) if self._looked_for else Counter()
            if kind := next((kind for kind in self._dropped if seen[kind]), None):
                outcome.dropped.append(Dropped(row, f"pii_{kind}", f"it has {seen[kind]} of the type {kind}"))
                continue
            after, counts = row, Counter[PiiType]()
            if self._replaced:
                after, counts = mask_row(row, self._replaced, self._written, meta=self._meta)
            rules = {f"pii_{kind}": count for kind, count in counts.items()}
            if flags := sorted(kind for kind in self._flagged if seen[kind]):
                after = _flagged(after, flags)
                rules |= {f"pii_flagged_{kind}": seen[kind] for kind in flags}
            outcome.kept.append(after)
            if rules:
                outcome.changed.append(Changed(row, after, rules))
        return outcome


def _writer(params: MaskPiiParams) -> Written:
    """What stands in the place of personal data: its type, and a pseudonym where the recipe asks for one."""

    def written(kind: PiiType, text: str) -> str:
        if params.action_of(kind) == "hash" and params.salt is not None:
            return f"{pii.PLACEHOLDER[kind][:-1]}:{pseudonym(kind, text, params.salt)}]"
        return pii.PLACEHOLDER[kind]

    return written


def _flagged(row: Row, kinds: Sequence[PiiType]) -> Row:
    return replace(row, meta=_json({**json.loads(row.meta), FLAG: list(kinds)}))


def mask_row(
    row: Row,
    types: Collection[PiiType] = CORE_TYPES,
    written: Written = lambda kind, _: pii.PLACEHOLDER[kind],
    *,
    meta: bool = True,
) -> tuple[Row, Counter[PiiType]]:
    """The row without personal data of these types, and how many of each were replaced; itself when none."""
    counts: Counter[PiiType] = Counter()

    def masked(text: str, before: str = "") -> str:
        found = _find(text, types, before)
        if not found:
            return text
        counts.update(item.type for item in found)
        return pii.replace(text, found, written)

    # Among the other columns a pair's answers are found by themselves.
    said = [masked(text) for text in (row.texts() if meta else row.said())]
    after = row if not counts else row.with_texts(said) if meta else row.with_said(said)
    label = masked(row.label) if row.label is not None else None
    identity = masked(row.id)
    others = after.meta
    if meta and any(_find(text, types, before) for text, before in _meta_texts(row.meta, types)):
        others = _json(_walk(json.loads(row.meta), masked))
    if not counts:
        return row, counts
    return replace(after, label=label, id=identity, meta=others), counts


def count_pii(row: Row, types: Collection[PiiType] = CORE_TYPES, *, meta: bool = True) -> Counter[PiiType]:
    """How much personal data of each type is in any column of the row, names of fields included."""
    plain = ((text, "") for text in (*(row.texts() if meta else row.said()), row.label or "", row.id))
    places = (*plain, *_meta_texts(row.meta, types)) if meta else plain
    found = [item.type for text, before in places for item in _find(text, types, before)]
    return Counter(found) if found else Counter()


def _find(text: str, types: Collection[PiiType], before: str) -> list[pii.Found]:
    """Personal data of `text`; `before` is a column's name, which says what stands behind it."""
    if not before or _TOLD_BY_WORDS.isdisjoint(types):
        return pii.find(text, types)
    size = len(before) + 1
    found = pii.find(f"{before}:{text}", types)
    return [pii.Found(item.type, item.start - size, item.end - size) for item in found if item.start >= size]


def _walk(value: Any, masked: Callable[[str, str], str], before: str = "") -> Any:
    """JSON with every string, and every number that is personal data as digits, masked. Keys are column names."""
    if isinstance(value, dict):
        return {key: _walk(item, masked, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk(item, masked, before) for item in value]
    text = _leaf(value)
    if text is None:
        return value
    clean = masked(text, before)
    return value if clean == text else clean


def _meta_texts(meta: str, types: Collection[PiiType]) -> Iterable[tuple[str, str]]:
    """What the other columns say, each with the name of its column.

    Their JSON says the same, but for escapes (`\\n` before a number), `.0`, and what names of columns tell.
    """
    if meta == "{}":
        return ()
    if not _TOLD_BY_WORDS.isdisjoint(types):
        return _leaves(json.loads(meta), "")
    if not pii.might_have(meta, types):
        return ()
    return _leaves(json.loads(meta), "") if "\\" in meta or ".0" in meta else ((meta, ""),)


def _leaves(value: Any, before: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, ""
            yield from _leaves(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, before)
    elif (text := _leaf(value)) is not None:
        yield text, before


def _leaf(value: Any) -> str | None:
    """The text in which personal data may be found: of a number its digits, and `13800138000.0` is a number."""
    if isinstance(value, str):
        return value.removesuffix(".0") if _WHOLE_AS_FLOAT.fullmatch(value) else value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
