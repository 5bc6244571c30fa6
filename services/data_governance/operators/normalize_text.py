"""Makes equal text equal: mojibake, Unicode form, width, control characters and whitespace."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from services.data_governance.mojibake import repair
from services.data_governance.rows import Changed, Outcome, Row
from shared.contracts.steps.normalize_text import NormalizeText, NormalizeTextParams

# Letters, digits, @ and the space, one to one; Chinese punctuation such as ，！？ is right as it is.
_WIDE = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff20\u3000]")
_NARROW = {
    code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF20, 0xFF3B), *range(0xFF41, 0xFF5B))
}
_NARROW[0x3000] = 0x20

# Controls but tab and line ends, byte-order mark, zero-width space and joiner of words, bidirectional overrides.
# U+200C and U+200D stay: Persian and emoji are spelt with them.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]+"
)
_LINE_END = re.compile("\r\n?|\u0085|\u2028|\u2029")
_SPACES = re.compile(
    "[\t \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]{2,}|[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
)
_AROUND_LINE_END = re.compile(" *\n *")
# Printable ASCII with single spaces between words: nothing to do, and most English text is like that.
_TIDY = re.compile("(?:[!-~]+ )*[!-~]+").fullmatch
_BLANK_LINES = re.compile("\n{3,}")


class Normalize:
    """One pass per rule, over each text; a row is changed when any rule changed any of its texts."""

    def __init__(self, step: NormalizeText) -> None:
        self._rules = tuple(_rules(step.params))

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            counts: dict[str, int] = {}
            said = [text if _TIDY(text) else self._text(text, counts) for text in row.said()]
            after = row.with_said(said) if counts else row
            outcome.kept.append(after)
            if counts:
                outcome.changed.append(Changed(row, after, counts))
        return outcome

    def _text(self, text: str, counts: dict[str, int]) -> str:
        for rule, function in self._rules:
            better = function(text)
            if better != text:
                counts[rule] = counts.get(rule, 0) + 1
                text = better
        return text


def _rules(params: NormalizeTextParams) -> list[tuple[str, Callable[[str], str]]]:
    # Mojibake first: its no-break spaces and control characters are bytes of letters, which later rules would eat.
    chosen: list[tuple[str, Callable[[str], str]]] = []
    if params.mojibake:
        chosen.append(("mojibake_repaired", repair))
    if params.form == "nfc":
        chosen.append(("unicode_form", _nfc))
    elif params.form == "nfkc":
        chosen.append(("unicode_form", _nfkc))
    if params.width:
        chosen.append(("width", _narrow))
    if params.control:
        chosen.append(("control_characters", _no_control))
    if params.whitespace:
        chosen.append(("whitespace", _tidy_spaces))
    return chosen


def _nfc(text: str) -> str:
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _nfkc(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _narrow(text: str) -> str:
    return text if text.isascii() or not _WIDE.search(text) else text.translate(_NARROW)


def _no_control(text: str) -> str:
    return text if text.isprintable() else _CONTROL.sub("", text)


def _tidy_spaces(text: str) -> str:
    """Line ends to LF, runs of spaces to one, none around line ends, at most one blank line, none at the ends."""
    if text.isprintable():  # then the only white space is U+0020
        return (_SPACES.sub(" ", text) if "  " in text else text).strip()
    text = _LINE_END.sub("\n", text)
    text = _SPACES.sub(" ", text)
    if "\n" in text:
        text = _BLANK_LINES.sub("\n\n", _AROUND_LINE_END.sub("\n", text))
    return text.strip()
