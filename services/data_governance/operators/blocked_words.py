"""Drops, masks or flags rows that hold a word of a list; Aho-Corasick (by Polars) over a whole batch of texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import polars as pl

from services.data_governance.rows import Changed, Dropped, Outcome, Row
from shared.contracts.steps.blocked_words import BlockedWords
from shared.text.pii import narrow

RULE = "blocked_words"
FLAG = "blocked_words"


class Blocked:
    """Rule `blocked_words`; the reason tells words by their number in the recipe, and never quotes one."""

    def __init__(self, step: BlockedWords) -> None:
        self._params = step.params
        self._numbers: dict[str, int] = {}
        for number, word in enumerate(step.params.words):
            self._numbers.setdefault(self._plain(word), number)
        self._words = list(self._numbers)

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        places = [(at, text) for at, row in enumerate(rows) for text in row.said()]
        plain = pl.Series([self._plain(text) for _, text in places], dtype=pl.String)
        hits = {places[index][0] for index in plain.str.contains_any(self._words).arg_true()}
        for at, row in enumerate(rows):
            found = [list(self._found(text)) for text in row.said()] if at in hits else []
            if any(found):
                self._act(row, found, outcome)
            else:
                outcome.kept.append(row)
        return outcome

    def _plain(self, text: str) -> str:
        """Character for character, so that a place in it is the place in the text."""
        if not self._params.fold:
            return text
        text = narrow(text)
        low = text.lower()
        return low if len(low) == len(text) else "".join(ch.lower()[0] for ch in text)

    def _found(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Start, end and number of each word, the longest where several begin."""
        plain = self._plain(text)
        near = pl.Series([plain]).str.extract_many(self._words, overlapping=True)[0].unique()
        words = sorted(near, key=len, reverse=True)
        if not words:
            return
        for match in re.finditer("|".join(map(self._pattern, words)), plain):
            yield match.start(), match.end(), self._numbers[match[0]]

    def _pattern(self, word: str) -> str:
        pattern = re.escape(word)
        if self._params.whole_words and _latin(word[0]):
            pattern = r"(?<![A-Za-z0-9])" + pattern
        if self._params.whole_words and _latin(word[-1]):
            pattern += r"(?![A-Za-z0-9])"
        return pattern

    def _act(self, row: Row, found: Sequence[Sequence[tuple[int, int, int]]], outcome: Outcome) -> None:
        numbers = sorted({number for spans in found for _, _, number in spans})
        if self._params.action == "drop":
            shown = ", ".join(map(str, numbers[:5]))
            outcome.dropped.append(
                Dropped(row, RULE, f"it holds {len(numbers)} of the words: number {shown}")
            )
            return
        if self._params.action == "mask":
            after = row.with_said([self._masked(*pair) for pair in zip(row.said(), found, strict=True)])
        else:
            meta = {**json.loads(row.meta), FLAG: numbers}
            told = json.dumps(meta, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            after = replace(row, meta=told)
        outcome.kept.append(after)
        outcome.changed.append(Changed(row, after, {RULE: sum(map(len, found))}))

    def _masked(self, text: str, spans: Sequence[tuple[int, int, int]]) -> str:
        parts, at = [], 0
        for start, end, _ in spans:
            parts += [text[at:start], self._params.replacement]
            at = end
        return "".join([*parts, text[at:]])


def _latin(char: str) -> bool:
    return char.isascii() and char.isalnum()
