"""Which script a text is written in, by shares of its letters. Names scripts, and no language it cannot be sure of."""

from __future__ import annotations

import re

# Runs rather than letters: there are far fewer of them to count.
_HANZI = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_KANA = re.compile("[\u3040-\u30ff]+")
_HANGUL = re.compile("[\uac00-\ud7af\u1100-\u11ff]+")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]+")
_LETTER = re.compile(r"[^\W\d_]+")
_SAMPLE_CHARS = 200
# A Chinese character says about as much as this many Latin letters.
_HANZI_WEIGHT = 3


def script_of(texts: tuple[str, ...]) -> str:
    """`chinese`, `latin`, `mixed` (both, none under a fifth), `japanese`, `korean`, `other` or `none`.

    Looks at the first 200 characters. Placeholders such as `[PHONE]` count as Latin letters.
    """
    sample = "".join(texts)[:_SAMPLE_CHARS]
    if sample.isascii():
        return "latin" if _LATIN.search(sample) else "none"
    latin, kana, hangul = _count(_LATIN, sample), _count(_KANA, sample), _count(_HANGUL, sample)
    hanzi = _HANZI_WEIGHT * _count(_HANZI, sample)
    letters = _count(_LETTER, sample) + hanzi - hanzi // _HANZI_WEIGHT
    if not letters:
        return "none"
    if kana * 10 > letters:
        return "japanese"
    if hangul * 5 > letters:
        return "korean"
    if hanzi * 5 > letters and latin * 5 > letters:
        return "mixed"
    name, most = max((("chinese", hanzi), ("latin", latin)), key=lambda pair: pair[1])
    return name if most * 2 >= letters else "other"


def _count(runs: re.Pattern[str], text: str) -> int:
    return sum(map(len, runs.findall(text)))
