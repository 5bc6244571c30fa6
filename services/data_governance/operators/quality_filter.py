"""Drops rows whose form tells that they are no prose, by limits that the recipe declares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from services.data_governance.characters import LETTERS, Kind, Kinds, counts_of, kinds_of
from services.data_governance.operators.passes import Fault, judged
from services.data_governance.rows import Outcome, Row
from shared.contracts.steps.quality_filter import QualityFilter

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"'\u4e00-\u9fff，。；！？）】]{2,2000}", re.IGNORECASE)
_BULLET = re.compile(r"^[ \t]*(?:[-*•·●○■◆▪–]|[0-9]{1,3}[.)、])[ \t]*\S", re.MULTILINE)
_ELLIPSIS = ("…", "...", "。。。")
_ENGLISH = frozenset(
    ("the", "be", "to", "of", "and", "that", "have", "with", "is", "in", "it", "you", "for", "a", "i")
)
_CHINESE = ("的", "了", "是", "我", "你", "您", "在", "有", "不", "和", "吗", "请", "这", "就", "也")
_MIN_WORDS = 20


class QualityOfForm:
    """One rule a limit, named after what it limits; the reason tells the value and the limit."""

    def __init__(self, step: QualityFilter) -> None:
        self._params = step.params

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        return judged(rows, self._fault)

    def _fault(self, row: Row) -> Fault:
        text = "\n".join(row.texts())
        if len(text) < self._params.min_chars:
            return None
        return next(self._faults(text), None)

    def _faults(self, text: str) -> Iterator[tuple[str, str]]:
        params, kinds = self._params, kinds_of(text)
        counts = counts_of(kinds)
        said = max(len(text) - counts[Kind.SPACE], 1)
        letters = sum(counts[kind] for kind in LETTERS) / said
        if letters < params.min_letter_share:
            yield "few_letters", _under("share of letters", letters, params.min_letter_share)
        shares = (("digit", counts[Kind.DIGIT], params.max_digit_share),
                  ("symbol", counts[Kind.SYMBOL], params.max_symbol_share))  # fmt: skip
        for name, count, limit in shares:
            if count > limit * said:
                yield f"many_{name}s", _over(f"share of {name}s", count / said, limit)
        yield from self._words(text, kinds, counts)
        yield from self._lines(text)

    def _words(self, text: str, kinds: Kinds, counts: Sequence[int]) -> Iterator[tuple[str, str]]:
        params = self._params
        latin = kinds == Kind.LATIN
        words = int(np.count_nonzero(latin[1:] & ~latin[:-1])) + bool(latin[0])
        if words >= _MIN_WORDS:
            mean = counts[Kind.LATIN] / words
            if mean < params.min_word_length:
                yield "short_words", _under("mean length of words", mean, params.min_word_length)
            if mean > params.max_word_length:
                yield "long_words", _over("mean length of words", mean, params.max_word_length)
        if params.min_stop_words and (found := _stop_words(text)) < params.min_stop_words:
            yield "few_stop_words", _under("different stop words", found, params.min_stop_words)
        marks = text.count("#") + text.count("…") + text.count("...")
        if marks > params.max_symbol_words * max(words + counts[Kind.HAN] // 2, 1):
            share = marks / max(words + counts[Kind.HAN] // 2, 1)
            yield "many_symbol_words", _over("hashes and ellipses per word", share, params.max_symbol_words)

    def _lines(self, text: str) -> Iterator[tuple[str, str]]:
        params = self._params
        if "://" in text or "www." in text:
            share = sum(map(len, _URL.findall(text))) / len(text)
            if share > params.max_url_share:
                yield "many_urls", _over("share of addresses", share, params.max_url_share)
        if "\n" not in text:
            return
        lines = [line for line in map(str.rstrip, text.split("\n")) if line]
        if (share := len(_BULLET.findall(text)) / max(len(lines), 1)) > params.max_bullet_lines:
            yield "many_bullets", _over("share of lines with bullets", share, params.max_bullet_lines)
        ended = sum(line.endswith(_ELLIPSIS) for line in lines) / max(len(lines), 1)
        if ended > params.max_ellipsis_lines:
            yield "many_ellipses", _over("share of lines that trail off", ended, params.max_ellipsis_lines)


def _stop_words(text: str) -> int:
    return len(_ENGLISH & set(text.lower().split())) + sum(word in text for word in _CHINESE)


def _over(what: str, value: float, limit: float) -> str:
    return f"{what}: {value:.2f}, at most {limit:g} is allowed"


def _under(what: str, value: float, limit: float) -> str:
    return f"{what}: {value:.2f}, at least {limit:g} is asked for"
