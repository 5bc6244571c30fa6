"""Turns tokens into text as they come: whole characters only, and nothing past a stop string.

Knows a `decode` function and no tokenizer, request or model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Decode = Callable[[list[int]], str]

# What a tokenizer writes for bytes that are no whole character yet; byte fallback writes one for each byte.
_REPLACEMENT = "\ufffd"
_MOST_PENDING = 3
# Tokens decoded together: enough to be rare to renew, few enough to be cheap to decode each time.
_WINDOW = 8
# Past this many tokens without a whole character at the end, the bytes are simply not UTF-8.
_LONGEST_WINDOW = 64


@dataclass(frozen=True)
class Piece:
    """New text that may be shown, and whether a stop string has ended it."""

    text: str
    stopped: bool


class Detokenizer:
    """The text of one answer. The pieces of `push` and `finish` joined are exactly `text`.

    A token's text may depend on those before it, so the last few are decoded together and only what follows the
    part already taken is new; the window is cut where a token ended with a whole character.
    """

    def __init__(self, decode: Decode, stop: tuple[str, ...] = ()) -> None:
        self._decode = decode
        self._stop = stop
        self._reach = max((len(text) for text in stop), default=1) - 1
        self._window: list[int] = []
        self._taken = 0
        self._boundary = 0
        self._parts: list[str] = []
        self._held = ""
        # A stop string was found: nothing more is given out.
        self.stopped = False

    @property
    def text(self) -> str:
        """All text given out so far."""
        return "".join(self._parts)

    def push(self, tokens: list[int]) -> Piece:
        """Add tokens; gives out what can no longer become part of a character or of a stop string."""
        self._window.extend(tokens)
        new = self._take(final=False)
        return self._emit(new, final=False)

    def finish(self) -> Piece:
        """No more tokens come: gives out all that was held back."""
        return self._emit(self._take(final=True), final=True)

    def _take(self, *, final: bool) -> str:
        if not self._window:
            return ""
        whole = self._decode(self._window)
        pending = 0 if final else _pending(whole)
        end = max(self._taken, len(whole) - pending)
        new = whole[self._taken : end]
        self._taken = end
        if not pending or len(self._window) > _LONGEST_WINDOW:
            if len(self._window) > _WINDOW:
                # Keep the last whole piece: some tokenizers drop the space before a text's first word.
                self._window = self._window[self._boundary :]
                self._taken = len(self._decode(self._window)) - pending
            self._boundary = len(self._window)
        return new

    def _emit(self, new: str, *, final: bool) -> Piece:
        text = self._held + new
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if ends:
            self._held = ""
            self.stopped = True
            return self._give(text[: min(ends)], stopped=True)
        keep = 0 if final else self._possible_stop(text)
        self._held = text[len(text) - keep :]
        return self._give(text[: len(text) - keep], stopped=False)

    def _give(self, text: str, *, stopped: bool) -> Piece:
        if text:
            self._parts.append(text)
        return Piece(text, stopped)

    def _possible_stop(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        for length in range(min(self._reach, len(text)), 0, -1):
            tail = text[len(text) - length :]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0


def _pending(text: str) -> int:
    """How many of the last characters may be the beginning of one that is not whole yet."""
    tail = text[-_MOST_PENDING:]
    return len(tail) - len(tail.rstrip(_REPLACEMENT))
