"""The terms that a text is found by: pairs of neighbouring characters of Chinese, whole words of Latin script. Pure.

Full width is folded (NFKC), so are case and traditional characters (opencc's t2s). A single character is a term of
its own too, which only a query of one character asks for.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache

from opencc import OpenCC

# Scripts that are written without spaces: Han, kana and the extensions; what is between them are words.
_UNSPACED = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+(?:['’][^\W_{_UNSPACED}]+)*")
_HAN = re.compile(rf"[{_UNSPACED}]")
LANGUAGES = ("zh", "en")
# Written either way in the same word, and no matter of traditional or simplified.
_VARIANTS = str.maketrans("帐", "账")
# A character of Chinese says about as much as three letters.
_LETTERS_A_CHARACTER = 3


@cache
def _converter() -> OpenCC:
    return OpenCC("t2s")


def fold(text: str) -> str:
    """Width, case and traditional characters folded."""
    folded = unicodedata.normalize("NFKC", text).lower()
    if folded.isascii():
        return folded
    simplified: str = _converter().convert(folded)
    return simplified.translate(_VARIANTS)


def document_terms(text: str) -> tuple[Counter[str], int]:
    """(terms with how often each occurs, length): single characters are found, but make no text longer."""
    counts: Counter[str] = Counter()
    length = 0
    for run in _RUN.findall(fold(text)):
        if not _HAN.match(run):
            counts[run] += 1
            length += 1
            continue
        pairs = [run[i : i + 2] for i in range(len(run) - 1)]
        counts.update(pairs)
        counts.update(run)
        length += max(1, len(pairs))
    return counts, length


def query_terms(text: str) -> list[str]:
    """Each term once; a Chinese run of one character asks for that character."""
    found: dict[str, None] = {}
    for run in _RUN.findall(fold(text)):
        if not _HAN.match(run) or len(run) == 1:
            found[run] = None
        else:
            found.update(dict.fromkeys(run[i : i + 2] for i in range(len(run) - 1)))
    return list(found)


def language(text: str) -> str:
    """`zh` where characters of Chinese (or kana) weigh more than letters, else `en`."""
    characters = len(_HAN.findall(text))
    letters = sum(char.isalpha() for char in text) - characters
    return "zh" if characters * _LETTERS_A_CHARACTER >= max(letters, 1) else "en"
