"""Cuts a text into chunks that overlap, and a chunk into windows that an encoder takes. Pure.

Tokens are counted as no tokenizer does exactly: a Chinese character is one, other letters are one for each four.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# What a text may be cut behind, the best first: paragraphs, lines, sentences, clauses, spaces; else anywhere.
_CUTS = (r"\n\s*\n", r"\n", r"[。！？；!?;]+[”’\"']?|[.!?]+\s", r"[，、,：:]", r"\s+")
_WIDE = re.compile(
    "[\u3000-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)
_LETTERS_A_TOKEN = 4
# What an encoder puts around a text, and what the count above may be off by: words of few pieces, numbers.
_SPARE, _SAFETY = 4, 0.6
DEFAULT_CONTEXT = 128


@dataclass(frozen=True)
class Chunk:
    """A part of a text, from character `start` on."""

    start: int
    text: str


def tokens(text: str) -> int:
    wide = len(_WIDE.findall(text))
    return wide + -(-(len(text) - wide) // _LETTERS_A_TOKEN)


def chunks(text: str, most: int, overlap: int) -> Iterator[Chunk]:
    """Chunks of at most `most` tokens, each beginning with about the last `overlap` tokens of the one before.

    Cut at the best place there is; chunks hold no more white space at their ends than the text between them.
    """
    # Overlap is by whole pieces; where there is none, whole paragraphs and sentences stay together.
    least = max(1, most // 4) if overlap else most
    pieces = [(start, piece, tokens(piece)) for start, piece in _pieces(text, 0, least, 0)]
    first = 0
    while first < len(pieces):
        size, last = 0, first
        while last < len(pieces) and (last == first or size + pieces[last][2] <= most):
            size += pieces[last][2]
            last += 1
        start = pieces[first][0]
        whole = text[start : pieces[last - 1][0] + len(pieces[last - 1][1])]
        if whole.strip():
            yield Chunk(start + len(whole) - len(whole.lstrip()), whole.strip())
        if last == len(pieces):
            return
        first = _step_back(pieces, first, last, overlap)


def _step_back(pieces: Sequence[tuple[int, str, int]], first: int, last: int, overlap: int) -> int:
    """Where the next chunk begins: as far back as the overlap allows, and always further on than this one."""
    at, size = last, 0
    while at - 1 > first and size + pieces[at - 1][2] <= overlap:
        at -= 1
        size += pieces[at][2]
    return at


def _pieces(text: str, start: int, most: int, level: int) -> Iterator[tuple[int, str]]:
    """(place, piece) of parts of at most `most` tokens, in order; all of them together are the text."""
    if tokens(text) <= most:
        yield start, text
        return
    if level == len(_CUTS):
        for at in range(0, len(text), most):
            yield start + at, text[at : at + most]
        return
    at = 0
    for match in re.finditer(_CUTS[level], text):
        end = match.end()
        if end > at:
            yield from _pieces(text[at:end], start + at, most, level + 1)
            at = end
    if at < len(text):
        yield from _pieces(text[at:], start + at, most, level + 1)


def windows(chunk: str, context: int | None) -> list[str]:
    """The chunk in parts that an encoder of `context` tokens takes, each with a vector of its own."""
    most = max(16, int(((context or DEFAULT_CONTEXT) - _SPARE) * _SAFETY))
    return [window.text for window in chunks(chunk, most, 0)] or [chunk]
