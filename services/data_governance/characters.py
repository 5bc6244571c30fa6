"""What kinds of characters a text is made of, counted without looking at one by one. Pure."""

from __future__ import annotations

import unicodedata
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np

Codes = np.ndarray[Any, np.dtype[np.uint32]]
Kinds = np.ndarray[Any, np.dtype[np.uint8]]


class Kind(IntEnum):
    """Letters by script, and what else there is."""

    SPACE = 0
    DIGIT = 1
    LATIN = 2
    HAN = 3
    KANA = 4
    HANGUL = 5
    CYRILLIC = 6
    ARABIC = 7
    DEVANAGARI = 8
    THAI = 9
    GREEK = 10
    HEBREW = 11
    OTHER_LETTER = 12
    SYMBOL = 13
    OTHER = 14


LETTERS = (*range(Kind.LATIN, Kind.SYMBOL),)
# Blocks of the Unicode standard; Latin's are only of its letters, by their category.
_BLOCKS = (
    (0x0041, 0x024F, Kind.LATIN),
    (0x1E00, 0x1EFF, Kind.LATIN),
    (0x0370, 0x03FF, Kind.GREEK),
    (0x0400, 0x052F, Kind.CYRILLIC),
    (0x0590, 0x05FF, Kind.HEBREW),
    (0x0600, 0x077F, Kind.ARABIC),
    (0xFB50, 0xFEFC, Kind.ARABIC),
    (0x0900, 0x097F, Kind.DEVANAGARI),
    (0x0E00, 0x0E7F, Kind.THAI),
    (0x1100, 0x11FF, Kind.HANGUL),
    (0xAC00, 0xD7AF, Kind.HANGUL),
    (0x3040, 0x30FF, Kind.KANA),
    (0x3400, 0x4DBF, Kind.HAN),
    (0x4E00, 0x9FFF, Kind.HAN),
    (0xF900, 0xFAFF, Kind.HAN),
    (0x20000, 0x3FFFF, Kind.HAN),
    (0xFF21, 0xFF5A, Kind.LATIN),
)


def codes_of(text: str) -> Codes:
    """The code points of `text`, one entry a character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def kinds_of(text: str) -> Kinds:
    """The `Kind` of each character."""
    return _table()[codes_of(text)]


def counts_of(kinds: Kinds) -> list[int]:
    """How many there are of each kind, by its number."""
    counts: list[int] = np.bincount(kinds, minlength=len(Kind)).tolist()
    return counts


@lru_cache(maxsize=1)
def _table() -> Kinds:
    """The kind of every code point: a megabyte, made once."""
    table = np.full(0x110000, Kind.OTHER, dtype=np.uint8)
    for code in range(0x20000):
        table[code] = _by_category(chr(code))
    for first, last, kind in _BLOCKS:
        block = table[first : last + 1]
        if last >= 0x20000:
            block[:] = kind
        else:
            block[block == Kind.OTHER_LETTER] = kind
    return table


def _by_category(char: str) -> Kind:
    category = unicodedata.category(char)
    if category[0] in "LM":
        return Kind.OTHER_LETTER
    if category == "Nd":
        return Kind.DIGIT
    if category[0] in "PS" or category in ("No", "Nl"):
        return Kind.SYMBOL
    return Kind.SPACE if char.isspace() else Kind.OTHER
