"""Keeps a fair, repeatable handful of examples a rule, with personal data masked. Does not depend on row order."""

from __future__ import annotations

import heapq
from typing import Any

from services.data_governance.rows import Changed, Dropped, Row, hash128
from shared.text.pii import PLACEHOLDER, mask

SAMPLES_PER_RULE = 20
SAMPLE_CHARS = 300
# rank, row id, and the row itself or, of another part, what is shown of it
_Held = tuple[int, str, Dropped | Changed | dict[str, Any]]


class Samples:
    """For each rule the rows whose hash with the seed is lowest: the same rows, however the source was cut."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        # Negated, since heapq keeps the smallest on top and the largest hash is what has to give way.
        self._held: dict[str, list[_Held]] = {}

    def add(self, rule: str, row: Row, what: Dropped | Changed) -> None:
        rank = -int.from_bytes(hash128(f"{self._seed}\n{rule}\n{row.row_id}"), "big")
        self._keep(rule, (rank, row.row_id, what))

    def dump(self) -> dict[str, list[list[Any]]]:
        """As JSON values, for `merge`: by rule rank (as text), row id and what is shown."""
        return {
            rule: [[str(rank), row_id, _shown(what)] for rank, row_id, what in held]
            for rule, held in self._held.items()
        }

    def merge(self, dumped: dict[str, list[list[Any]]]) -> None:
        for rule, held in dumped.items():
            for rank, row_id, shown in held:
                self._keep(rule, (int(rank), row_id, shown))

    def report(self) -> dict[str, list[dict[str, Any]]]:
        """By rule, in the order of the source's lines."""
        shown = {rule: [_shown(what) for _, _, what in held] for rule, held in sorted(self._held.items())}
        return {
            rule: sorted(entries, key=lambda entry: (entry.get("source", 0), entry["line"]))
            for rule, entries in shown.items()
        }

    def _keep(self, rule: str, one: _Held) -> None:
        held = self._held.setdefault(rule, [])
        if len(held) < SAMPLES_PER_RULE:
            heapq.heappush(held, one)
        elif one[0] > held[0][0]:
            heapq.heapreplace(held, one)


def shown_text(row: Row) -> str:
    """The beginning of the row in one string, as a report may show it."""
    return _cut(_text(row))


def _shown(what: Dropped | Changed | dict[str, Any]) -> dict[str, Any]:
    if isinstance(what, dict):
        return what
    if isinstance(what, Dropped):
        return {**_place(what.row), "reason": what.reason, "text": _cut(_text(what.row))}
    before, after = _text(what.before), _text(what.after)
    start = max(0, _first_change(before, after) - SAMPLE_CHARS // 4)
    return {**_place(what.before), "before": _cut(before, start), "after": _cut(after, start)}


def _place(row: Row) -> dict[str, Any]:
    place = {"line": row.line, "row_id": row.row_id}
    return {**place, "source": row.source} if row.source else place


def _first_change(before: str, after: str) -> int:
    """Where the two part; where masking made them the same, the first placeholder."""
    if before == after:
        return max(0, min((at for at in map(after.find, PLACEHOLDER.values()) if at >= 0), default=0))
    pairs = enumerate(zip(before, after, strict=False))
    return next((at for at, (old, new) in pairs if old != new), min(len(before), len(after)))


def _cut(text: str, start: int = 0) -> str:
    end = start + SAMPLE_CHARS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _text(row: Row) -> str:
    """The row in one string; masked before it is cut, so that no half number is left."""
    turns = [("text", row.text or "")] if row.messages is None else row.messages
    text = "\n".join(f"{role or '?'}: {content}" for role, content in turns)
    if row.label is not None:
        text += f"\nlabel: {row.label}"
    masked, _ = mask(text)
    return masked
