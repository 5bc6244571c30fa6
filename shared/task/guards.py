"""Input and output guards: what a caller's texts must be, and what of a growing answer may be let go. Pure.

`en` is told by Latin script and `zh` by Chinese: other languages of the same script pass for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from shared.contracts.task import MAX_INPUT, Guard, Language
from shared.errors import HeliuError, InvalidInput
from shared.text import pii
from shared.text.language import script_of
from shared.text.patterns import Patterns

SCRIPTS: dict[Language, frozenset[str]] = {
    "zh": frozenset({"chinese", "mixed", "none"}),
    "en": frozenset({"latin", "mixed", "none"}),
}
# As many characters as the telling of a script looks at.
LANGUAGE_SAMPLE = 200
# The ends of a text, once it is narrow, that may still become a number or an e-mail address. Longer ones than
# MOST_HELD are neither.
_NUMBER_END = re.compile(r"[+(]*[0-9+(][0-9 \-.·()+转extEXT]*\Z")
_WORD_END = re.compile(r"[A-Za-z0-9._%+\-@]+\Z")
MOST_HELD = 1_000
# The reason that a refused answer ends with.
FILTERED = "content_filter"
# What a look at a part of a text sees before it: look-behinds and words that announce a number.
BEFORE = 64


class Refused(HeliuError):
    """A guard does not let this text in."""

    code = "content_filter"


def guard_input(guard: Guard, texts: Sequence[tuple[str, str]]) -> list[str]:
    """The texts of (place, text), masked where the guard masks. Raises Refused that names guard and place.

    Bounds are of all texts together; so is the language.
    """
    places, said = [place for place, _ in texts], [text for _, text in texts]
    size = sum(map(len, said))
    if size > MAX_INPUT:
        raise InvalidInput(
            f"the texts of this request have {size} characters; a task takes {MAX_INPUT} at most",
            param=places[0],
        )
    if guard.empty or not texts:
        return said
    if guard.min_chars is not None and size < guard.min_chars:
        raise _refused("min_chars", f"{size} characters are less than {guard.min_chars}", places[0])
    if guard.max_chars is not None and size > guard.max_chars:
        raise _refused("max_chars", f"{size} characters are more than {guard.max_chars}", places[0])
    if guard.languages and not _in_language("".join(said), guard.languages):
        allowed = " or ".join(guard.languages)
        raise _refused("languages", f"the text is not in {allowed}", places[0])
    patterns = patterns_of(tuple(guard.blocked))
    for place, text in texts:
        if (number := patterns.first(text)) is not None:
            raise _refused("blocked", f"the text matches blocked[{number}]", place)
    if guard.pii is None:
        return said
    if guard.pii.action == "mask":
        return [pii.mask(text, guard.pii.types)[0] for text in said]
    for place, text in texts:
        if found := pii.find(text, guard.pii.types):
            kinds = ", ".join(sorted({item.type for item in found}))
            raise _refused("pii", f"the text holds personal data ({kinds})", place)
    return said


def _refused(rule: str, why: str, place: str) -> Refused:
    return Refused(f"the guard input.{rule} refuses {place}: {why}", param=place)


def _in_language(text: str, languages: Sequence[Language]) -> bool:
    script = script_of((text,))
    return any(script in SCRIPTS[language] for language in languages)


@lru_cache(maxsize=256)
def patterns_of(blocked: tuple[str, ...]) -> Patterns:
    """Compiled once: a guard looks at many pieces of many answers."""
    return Patterns(blocked)


class OutputGuard:
    """One answer on its way out. What comes back from `push` and `end` may be shown; the rest is held, or withheld.

    `refused` is the guard that ended the answer, by name; what came before it has been let go.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._patterns = patterns_of(tuple(guard.blocked))
        self._text = ""
        self._out = 0
        self._language_known = not guard.languages
        self.masked = 0
        self.shown = ""
        self.refused: str | None = None

    @property
    def seen(self) -> int:
        """Characters that have come so far."""
        return len(self._text)

    def push(self, text: str) -> str:
        """Take more of the answer; returns what of it may go on."""
        if self.refused is not None:
            return ""
        self._text += text
        return self._release(final=False)

    def end(self) -> str:
        """There is no more; returns what was held back."""
        return self._release(final=True) if self.refused is None else ""

    def _release(self, *, final: bool) -> str:
        guard, size = self._guard, len(self._text)
        if not self._language_known and (final or size >= LANGUAGE_SAMPLE):
            self._language_known = _in_language(self._text, guard.languages or ())
            if not self._language_known:
                self.refused = "output.languages"
        held = not self._language_known or (guard.min_chars is not None and size < guard.min_chars)
        if final and held and self.refused is None:
            self.refused = "output.min_chars"
        if held and self.refused is None:
            # Not looked through again with each token while it is held whatever it says.
            return ""
        self._check_blocked(final)
        if self.refused is not None:
            return ""
        found = self._find()
        limit = size if final else self._sure()
        if guard.pii is not None and guard.pii.action == "refuse":
            known = [item for item in found if final or item.end <= limit]
            if known:
                limit = known[0].start
                self.refused = "output.pii"
        if guard.max_chars is not None and size > guard.max_chars:
            limit = min(limit, guard.max_chars)
            self.refused = self.refused or "output.max_chars"
        return self._let_go(limit, found)

    def _check_blocked(self, final: bool) -> None:
        if not self._guard.blocked:
            return
        # Whatever is out was looked at; a match that is still possible begins behind it.
        window = self._text[max(0, self._out - 1) :]
        if self._patterns.first(window, growing=not final) is not None:
            self.refused = "output.blocked"

    def _find(self) -> list[pii.Found]:
        if self._guard.pii is None:
            return []
        start = max(0, self._out - BEFORE)
        found = pii.find(self._text[start:], self._guard.pii.types)
        moved = [pii.Found(item.type, item.start + start, item.end + start) for item in found]
        return [item for item in moved if item.start >= self._out]

    def _sure(self) -> int:
        """Up to where nothing that may still come can make what is there a match."""
        limit = len(self._text)
        if self._guard.blocked:
            limit -= self._patterns.width
        if self._guard.pii is not None:
            limit = min(limit, self._open_end())
        return max(limit, self._out)

    def _open_end(self) -> int:
        start = max(self._out, len(self._text) - MOST_HELD)
        tail = pii.narrow(self._text[start:])
        # Two looks: the last word may be an address, and it may also be the last group of a number before it.
        ends = [match.start() for match in (_NUMBER_END.search(tail), _WORD_END.search(tail)) if match]
        return start + min(ends, default=len(tail))

    def _let_go(self, limit: int, found: Sequence[pii.Found]) -> str:
        parts = []
        for item in found:
            if item.end > limit:
                # Half of a number is personal data too.
                limit = min(limit, item.start)
                break
            parts += [self._text[self._out : item.start], pii.PLACEHOLDER[item.type]]
            self._out = item.end
            self.masked += 1
        limit = max(limit, self._out)
        parts.append(self._text[self._out : limit])
        self._out = limit
        self.shown += (text := "".join(parts))
        return text


def guard_choices(
    guard: Guard, choices: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Whole choices ({"text", "finish_reason", ...}) as they may be shown, and the guards that ended any of them."""
    shown, refused = [], set()
    for choice in choices:
        out = OutputGuard(guard)
        out.push(str(choice["text"]))
        out.end()
        reason = FILTERED if out.refused is not None else choice["finish_reason"]
        shown.append({**choice, "text": out.shown, "finish_reason": reason})
        refused |= {out.refused} if out.refused is not None else set()
    return shown, sorted(refused)
