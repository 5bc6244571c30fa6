"""Records of a CSV file with a header: quotes and line ends inside fields, and recovery after a broken record."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import Any

from services.data_governance.ingest.bad_rows import BadRow, BadRows
from services.data_governance.ingest.jsonl import decode
from services.data_governance.ingest.lines import MAX_LINE_BYTES, Line, LineFile
from shared.errors import InvalidInput

MAX_COLUMNS = 2048
MAX_HEADER_LINES = 64
_DELIMITERS = ",\t;|"
# Names of the columns, and what stands between fields.
Header = tuple[list[str], str]


class _Feed:
    """Decoded lines for csv.reader, with the lines of the record in hand kept, so that reading can start over."""

    def __init__(self, file: LineFile, encoding: str) -> None:
        self._lines = iter(file)
        self._again: deque[Line] = deque()
        self._encoding = encoding
        self.record: list[Line] = []
        self._size = 0

    def begin(self) -> None:
        """Forgets the record before."""
        self.record = []
        self._size = 0

    def resume_after_first_line(self) -> None:
        """Gives back all lines of the record in hand but its first."""
        self._again.extendleft(reversed(self.record[1:]))

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.record.append(line)
        self._size += len(line.data or b"") + 1
        if self._size > MAX_LINE_BYTES + 1 and len(self.record) > 1:
            raise BadRow(
                "unclosed_quote", f"a quote opens here and is not closed within {MAX_LINE_BYTES} bytes"
            )
        return decode(line, self._encoding) + "\n"


class Records:
    """Number and offset of each record's first line, and its fields by column, the header's names being the keys.

    Iterate it once. Without a `header` the first line is one; raises InvalidInput when it cannot be used. Bad records
    are noted in `bad`; after one that spans lines, reading goes on with the line after its first.
    """

    def __init__(self, file: LineFile, encoding: str, bad: BadRows, header: Header | None = None) -> None:
        # The limit is csv's own and global; it is only ever raised, to what a line may have.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
        self._feed = _Feed(file, encoding)
        self._bad = bad
        self.header = _header(self._feed) if header is None else header

    def __iter__(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        columns, delimiter = self.header
        feed, bad = self._feed, self._bad
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        while True:
            feed.begin()
            try:
                fields = next(reader)
                if not fields:
                    continue
                if len(fields) != len(columns):
                    raise BadRow("ragged_row", f"{len(fields)} fields, the header has {len(columns)}")
            except StopIteration:
                return
            except BadRow as exc:
                _note(bad, feed, exc.code, exc.message)
                continue
            except csv.Error as exc:
                _note(bad, feed, *_csv_fault(str(exc)))
                continue
            first = feed.record[0]
            yield first.number, first.offset, dict(zip(columns, fields, strict=True))


def _note(bad: BadRows, feed: _Feed, code: str, message: str) -> None:
    first, last = feed.record[0], feed.record[-1]
    if code in {"invalid_utf8", "invalid_encoding", "nul_character", "line_too_long"} and last is not first:
        message = f"in line {last.number}: {message}"
    bad.add(first.number, code, message, first.offset)
    if code != "ragged_row":
        feed.resume_after_first_line()


def _csv_fault(message: str) -> tuple[str, str]:
    if "unexpected end of data" in message:
        return "unclosed_quote", "a quote opens here and is never closed"
    if "expected after" in message:
        return "stray_quote", "text after a closing quote; a quote inside a quoted field is written twice"
    return "malformed_csv", message


def _header(feed: _Feed) -> Header:
    try:
        text = next(line for line in feed if line.strip())
    except StopIteration as exc:
        raise InvalidInput(
            "the CSV file is empty; its first line must name the columns", code="empty_file"
        ) from exc
    except BadRow as exc:
        raise InvalidInput(f"line 1, the header: {exc.message}", code=exc.code) from exc
    place = f"line {feed.record[-1].number}, the header"
    # A name may hold line ends; a quote that is never closed may not eat the file.
    for _ in range(MAX_HEADER_LINES):
        best = max((_split(text, mark) for mark in _DELIMITERS), key=lambda found: len(found[0]))
        if best[0]:
            break
        try:
            text += next(feed)
        except (StopIteration, BadRow):
            break
    columns, delimiter = best
    if not columns:
        raise InvalidInput(
            f"{place}, is no CSV: a quote is never closed, or text follows a closing quote",
            code="malformed_csv",
        )
    empty = [index for index, name in enumerate(columns, start=1) if not name]
    twice = (
        sorted({name for name in columns if columns.count(name) > 1}) if len(columns) <= MAX_COLUMNS else []
    )
    if empty or twice or len(columns) > MAX_COLUMNS:
        what = (
            f"column {empty[0]} has no name"
            if empty
            else f"the name {twice[0]!r} is there twice"
            if twice
            else ""
        )
        what = what or f"{len(columns)} columns, at most {MAX_COLUMNS} are allowed"
        raise InvalidInput(f"{place}: {what}; each column needs a name of its own", code="bad_header")
    return columns, delimiter


def _split(text: str, delimiter: str) -> tuple[list[str], str]:
    """The names in a header with this delimiter, none where it does not read as CSV then."""
    try:
        names = next(
            csv.reader([f"{line}\n" for line in text.split("\n")[:-1]], delimiter=delimiter, strict=True)
        )
    except csv.Error:
        return [], delimiter
    return [" ".join(name.split()) for name in names], delimiter
