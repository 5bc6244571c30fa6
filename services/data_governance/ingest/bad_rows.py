"""The rows of a source that cannot be read: an exact count by code, and a capped list with their places."""

from __future__ import annotations

from collections import Counter
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
    """Notes on the first `MAX_LISTED` bad rows, and how many there were of each code."""

    counts: Counter[str] = field(default_factory=Counter)
    listed: list[BadRowNote] = field(default_factory=list)

    def add(self, line: int, code: str, message: str, byte: int | None = None) -> None:
        self.counts[code] += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(BadRowNote(line, code, message, byte))

    @property
    def total(self) -> int:
        return sum(self.counts.values())
