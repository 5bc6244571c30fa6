"""The rows of a source that cannot be read: an exact count by code, a capped list, and each of them to a sink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_LISTED = 200


class BadRow(Exception):
    """One row cannot be used; the rest of the source can. The message quotes no row content."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class BadRowNote:
    """`line` is 1-based (in Parquet the row number); `byte` is the offset of the row's first byte, where known."""

    line: int
    code: str
    message: str
    byte: int | None = None


@dataclass(slots=True)
class BadRows:
    """Notes on the first `MAX_LISTED` bad rows, and how many there were of each code; `sink` hears of every one."""

    sink: Callable[[BadRowNote], None] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    listed: list[BadRowNote] = field(default_factory=list)

    def add(self, line: int, code: str, message: str, byte: int | None = None) -> None:
        self.counts[code] += 1
        note = BadRowNote(line, code, message, byte)
        if len(self.listed) < MAX_LISTED:
            self.listed.append(note)
        if self.sink is not None:
            self.sink(note)

    @property
    def total(self) -> int:
        return sum(self.counts.values())
