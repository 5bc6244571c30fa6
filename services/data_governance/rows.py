"""What travels through a recipe: frozen rows, and what an operator did to them. Knows no file format."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from services.data_governance.pairs import answers, with_answers

ROLES = frozenset({"system", "user", "assistant", "tool"})
# Marks that change what is said: 2.5 is not 25, nor 100-150 or -5 their digits, nor C++ C, 5% 5, $5 €5.
_SIGNS = "+#%=<>$€£¥°"
_NOT_WORD = re.compile(rf"[^\w{_SIGNS}]+|_+")
_NOT_WORD_ASCII = bytes(code for code in range(128) if not chr(code).isalnum() and chr(code) not in _SIGNS)
# NFKC is slow, and of plain Chinese text it would change nothing but punctuation, which goes anyway: all but ASCII,
# the ideographs and these marks is folded, and so is a wide mark beside a digit, which would stay.
_FOLDS = re.compile("[^\x00-\x7f\u4e00-\u9fff，。！？：；、（）【】《》“”‘’…—·]")
_WIDE_MARK = re.compile(r"[0-9]\s*[，：。·]|[，：。·]\s*[0-9]")
_DIGIT = re.compile("[0-9]")
_MARK_BEFORE_DIGIT = re.compile(r"(?<=[0-9])\s*([.,:/*-])\s*(?=[0-9])|(?<![\w-])(-)(?=[0-9])")
_KEPT_MARKS = str.maketrans(
    dict(zip(".,:/*-", "ʘǀǁǂǃʬ", strict=True))
)  # letters of no text, so nothing strips them


class Message(NamedTuple):
    """One turn. `role` is empty where the source gave none."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One source row. Exactly one of `messages` and `text` is set; `meta` is JSON text of the other columns.

    `row_id` is made from the source's sha256, the line and the content as it came in (of a synced source from its id,
    the row's key and the content), so it stays the same whatever a recipe does to the row. `source` is the number of
    the input, 0 for the first; `parents` are the ids of the rows that this one was put together from, none for one
    that came in as it is. `split` is empty where nothing but the row itself decides it.
    """

    row_id: str
    line: int
    id: str
    messages: tuple[Message, ...] | None
    text: str | None
    label: str | None
    meta: str
    source: int = 0
    parents: tuple[str, ...] = ()
    split: str = ""

    def texts(self) -> tuple[str, ...]:
        """The strings that training would see."""
        if self.messages is not None:
            return tuple([m[1] for m in self.messages])
        return (self.text or "",)

    def said(self) -> tuple[str, ...]:
        """The same, and of a preference pair the answers that stand in other columns: all that a rewrite must reach."""
        return (*self.texts(), *answers(self.meta))

    def content(self) -> str:
        """Canonical JSON of what the row says: messages or text, and label."""
        return _json((self.messages, self.text, self.label))

    def with_texts(self, texts: Sequence[str]) -> Row:
        """The row that says `texts` instead, one for each of its own."""
        if self.messages is None:
            return replace(self, text=texts[0])
        turns = zip(self.messages, texts, strict=True)
        return replace(self, messages=tuple(Message(m.role, text) for m, text in turns))

    def with_said(self, said: Sequence[str]) -> Row:
        """The row that says this instead, one text for each that `said` has."""
        own = len(self.texts())
        return replace(self.with_texts(said[:own]), meta=with_answers(self.meta, said[own:]))


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that an operator refused, by which rule, and why in words that quote no row content."""

    row: Row
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A row before and after; `rules` maps each rule to how often it applied within the row."""

    before: Row
    after: Row
    rules: dict[str, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operator made of a batch: each row that went in is in `kept` or in `dropped`, in order."""

    kept: list[Row] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)


class Operator(Protocol):
    """A row-wise step: what becomes of a row depends on that row alone, so rows may be cut into batches at will."""

    def __call__(self, rows: Sequence[Row]) -> Outcome: ...


class KeyColumns(Protocol):
    """The keys of all rows, part by part in the order of the source; no more than a column is in memory at once."""

    @property
    def rows(self) -> int: ...

    def column(self, name: str, at: int | None = None) -> np.ndarray[Any, Any]:
        """All rows of a key, or of the column `at` of a key that has several."""
        ...

    def taken(self, name: str, ordinals: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The values of these rows (0-based numbers over all parts, in any order)."""
        ...


class Settling(Protocol):
    """A step that must have seen every row before it judges one.

    `keys` runs where the rows are and says of each what the judgement needs, as arrays with an entry a row. `settle`
    runs once, over the keys of all rows (`alive` is False for those that an earlier step has dropped), and returns an
    array with an entry a row whose field `drop` says which go; other fields are for `dropped`, which tells why.
    """

    def keys(self, rows: Sequence[Row]) -> Mapping[str, np.ndarray[Any, Any]]: ...

    def settle(self, keys: KeyColumns, alive: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]: ...

    def dropped(self, row: Row, verdict: np.void) -> Dropped: ...


class Gathering(Settling, Protocol):
    """A settling step that makes one row of many. Its verdicts have a field `first`, the number of the row whose place
    the new one takes; that row is the one of its group that is not dropped."""

    def gathered(self, first: Row, members: Sequence[tuple[Row, np.void]]) -> Row: ...


def hash128(text: str) -> bytes:
    """16 bytes of BLAKE2b over UTF-8: 2**64 rows are needed before two are likely to collide."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


# As many texts as a batch of rows has, and more: its steps ask for the same keys one after the other.
@lru_cache(maxsize=8192)
def normalise_key(text: str) -> str:
    """`text` without case, width, spaces and punctuation (marks in numbers stay); itself when that leaves nothing."""
    if not text.isascii() and (_FOLDS.search(text) or (_DIGIT.search(text) and _WIDE_MARK.search(text))):
        text = unicodedata.normalize("NFKC", text)
    if _DIGIT.search(text):
        text = _MARK_BEFORE_DIGIT.sub(_kept_mark, text)
    if text.isascii():
        return text.lower().encode().translate(None, _NOT_WORD_ASCII).decode() or text.strip()
    return _NOT_WORD.sub("", text.casefold()) or text.strip()


def _kept_mark(match: re.Match[str]) -> str:
    return (match[1] or match[2]).translate(_KEPT_MARKS)


def question_key(row: Row) -> str:
    """The normalised first user turn, or the normalised text: what training must not see of validation."""
    if row.messages is None:
        return normalise_key(row.text or "")
    first = next((m.content for m in row.messages if m.role == "user"), None)
    return normalise_key(first if first is not None else _json(row.messages))


def make_row_id(source: str, place: str, content: str) -> str:
    """`row-` and 32 hex digits of H(source, place, content): a file's SHA-256 and line, or a source and its key."""
    return "row-" + hash128(f"{source}\n{place}\n{content}").hex()


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
