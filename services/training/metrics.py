"""How near an answer is to its reference: exact match and token F1, Chinese and English alike. Knows no model."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

# A Han, kana or Hangul character is a token by itself; any other run of letters, marks and digits is one token.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+")


def normalise(text: str) -> str:
    """NFKC, case folded, runs of white space to one blank, ends trimmed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def tokens(text: str) -> list[str]:
    """Chinese by character, English by word; punctuation does not count."""
    return _TOKEN.findall(normalise(text))


def exact_match(answer: str, reference: str) -> float:
    """1.0 where both are the same after normalisation, else 0.0."""
    return float(normalise(answer) == normalise(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the bags of tokens (SQuAD's F1), 0.0 to 1.0."""
    got, want = tokens(answer), tokens(reference)
    if not got or not want:
        return float(got == want and exact_match(answer, reference))
    common = sum((Counter(got) & Counter(want)).values())
    return 2 * common / (len(got) + len(want))
