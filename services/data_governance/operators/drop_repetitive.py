"""Drops rows that repeat themselves: the same character, the same words, or the same lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from services.data_governance.characters import Codes, codes_of
from services.data_governance.operators.passes import Fault, judged
from services.data_governance.rows import Outcome, Row
from shared.contracts.steps.drop_repetitive import DropRepetitive

Tokens = np.ndarray[Any, np.dtype[np.uint64]]
# Words are at most about so long; a text with fewer spaces is read by characters.
_WORD_CHARS = 12
_WORDS, _CHARS = (5, 2), (10, 4)
_BASE = 0x9E3779B97F4A7C15
_ZERO = np.zeros(1, dtype=np.intp)


class Repetitive:
    """Rules `repeated_character`, `repeated_lines`, `repeated_ngrams`, `repeated_phrase`; reasons name the share."""

    def __init__(self, step: DropRepetitive) -> None:
        self._params = step.params

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        return judged(rows, self._fault)

    def _fault(self, row: Row) -> Fault:
        params, text = self._params, "\n".join(row.texts())
        codes = codes_of(text)
        if _has_run(codes, params.max_run):
            return "repeated_character", f"one character stands more than {params.max_run} times in a row"
        if (lines := _repeated_lines(text)) > params.max_duplicate_lines:
            return "repeated_lines", _over("lines that came before", lines, params.max_duplicate_lines)
        words = text.split()
        by_words = len(words) * _WORD_CHARS >= len(text)
        tokens = _numbered(words) if by_words else codes.astype(np.uint64)
        if len(tokens) < max(params.min_tokens, 12):
            return None
        long, short = _WORDS if by_words else _CHARS
        repeated = 1 - _distinct(_ngrams(tokens, long)) / (len(tokens) - long + 1)
        if repeated > params.max_duplicate_ngrams:
            return "repeated_ngrams", _over("n-grams that came before", repeated, params.max_duplicate_ngrams)
        share = _covered(_ngrams(tokens, short), short) / len(tokens)
        if share > params.max_top_ngram:
            return "repeated_phrase", _over("its most frequent phrase", share, params.max_top_ngram)
        return None


def _over(what: str, share: float, limit: float) -> str:
    return f"{what}: a share of {share:.2f}, at most {limit:.2f} is allowed"


def _has_run(codes: Codes, longest: int) -> bool:
    same = codes[1:] == codes[:-1]
    return b"\1" * longest in same.tobytes()


def _repeated_lines(text: str) -> float:
    """Characters in lines that came before, of those in all lines; white space around a line does not count."""
    if text.count("\n") < 3:
        return 0.0
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    return 1 - sum(map(len, set(lines))) / max(sum(map(len, lines)), 1)


def _numbered(words: Sequence[str]) -> Tokens:
    """Each word by the number of its first place, so that equal words are equal and no hash is needed."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.uint64)


def _ngrams(tokens: Tokens, size: int) -> Tokens:
    """A polynomial hash of each `size` tokens in a row, modulo 2**64; doubled as far as it goes."""
    hashed, width = tokens + np.uint64(1), 1
    first = hashed
    while width * 2 <= size:
        hashed = hashed[:-width] * np.uint64(pow(_BASE, width, 2**64)) + hashed[width:]
        width *= 2
    while width < size:
        hashed = hashed[:-1] * np.uint64(_BASE) + first[width:]
        width += 1
    return hashed


def _distinct(values: Tokens) -> int:
    """How many different values there are."""
    ordered = np.sort(values)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + 1


def _covered(values: Tokens, size: int) -> int:
    """Tokens that the most frequent n-gram stands on, each counted once; 0 where none comes twice."""
    ordered = np.sort(values)
    starts = np.concatenate((_ZERO, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1))
    times = np.concatenate((starts[1:], [len(ordered)])) - starts
    top = int(times.argmax())
    if times[top] < 2:
        return 0
    places = np.flatnonzero(values == ordered[starts[top]])
    return int(np.minimum(places[1:] - places[:-1], size).sum()) + size
