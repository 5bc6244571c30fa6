"""Lines of a plain or gzipped file with number and offset; no line and no bomb is ever held in memory whole."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from shared.errors import InvalidInput

MAX_LINE_BYTES = 1024 * 1024
MAX_DECOMPRESSED_BYTES = 16 * 1024**3
# Exports compress 5 to 30 times; deflate can reach 1,032. Small files may be as repetitive as they like.
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 * 1024 * 1024
_BUFFER = 256 * 1024
_LOOK_BYTES = 4 * 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"


class Span(NamedTuple):
    """A stretch of a file: bytes `start` to `end` of text, row groups of Parquet; `first` numbers its first line or
    row. `end` None is the file's own."""

    start: int = 0
    end: int | None = None
    first: int = 1


class Line(NamedTuple):
    """`data` has no line end, and is None when the line is longer than the limit (its rest was skipped)."""

    number: int
    offset: int
    data: bytes | None


class LineFile:
    """Iterate it once. `bytes_read` and `bytes_total` are bytes of the file as stored, for progress.

    `on_read` is called every few megabytes, also within a line: it may raise, to stop. `span` must begin and end where
    lines do; a gzipped file has none.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_line_bytes: int = MAX_LINE_BYTES,
        max_decompressed_bytes: int = MAX_DECOMPRESSED_BYTES,
        on_read: Callable[[], None] | None = None,
        span: Span = Span(),
    ) -> None:
        self._raw = path.open("rb")
        self.bytes_total = os.fstat(self._raw.fileno()).st_size
        self._max_line = max_line_bytes
        self._on_read = on_read
        self._next_look = _LOOK_BYTES
        self.gzipped = self._raw.read(2) == _GZIP_MAGIC
        self._raw.seek(span.start)
        self._span = span
        self._stream: io.BufferedReader = self._raw
        self._limit: int | None = None
        if self.gzipped:
            unzipped = gzip.GzipFile(fileobj=self._raw)
            self._stream = io.BufferedReader(unzipped, _BUFFER)
            by_ratio = max(RATIO_FREE_BYTES, self.bytes_total * MAX_RATIO)
            self._limit = min(max_decompressed_bytes, by_ratio)

    def close(self) -> None:
        self._stream.close()
        self._raw.close()

    @property
    def bytes_read(self) -> int:
        return self._raw.tell()

    def blocks(self) -> Iterator[bytes]:
        """The bytes, unpacked. Raises InvalidInput as iterating does."""
        size = 0
        try:
            while block := self._stream.read(_BUFFER):
                size += len(block)
                self._check(size)
                yield block
        except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
            raise InvalidInput(
                f"the gzip file is damaged after {size} unpacked bytes: {exc}; upload it again",
                code="damaged_file",
            ) from exc

    def __iter__(self) -> Iterator[Line]:
        """Raises InvalidInput when the gzip stream is damaged or grows past its limit."""
        number, offset = self._span.first - 1, self._span.start
        end = math.inf if self._span.end is None else self._span.end
        cap = self._max_line + 2
        readline = self._stream.readline
        try:
            while offset < end and (data := readline(cap)):
                number += 1
                start, size = offset, len(data)
                whole = data.endswith(b"\n") or size < cap
                while not whole:
                    rest = readline(_BUFFER)
                    size += len(rest)
                    whole = not rest or rest.endswith(b"\n")
                    self._check(start + size)
                offset = start + size
                self._check(offset)
                kept = data.rstrip(b"\r\n")
                yield Line(number, start, kept if size <= cap and len(kept) <= self._max_line else None)
        except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
            raise InvalidInput(
                f"the gzip file is damaged after line {number}: {exc}; upload it again", code="damaged_file"
            ) from exc

    def _check(self, size: int) -> None:
        if self._on_read is not None and size >= self._next_look:
            self._next_look = size + _LOOK_BYTES
            self._on_read()
        if self._limit is not None and size > self._limit:
            raise InvalidInput(
                f"the gzip file of {self.bytes_total} bytes unpacks to more than {self._limit}; "
                "upload it unpacked, or in parts",
                code="decompressed_too_large",
            )


def head(path: Path, size: int) -> bytes:
    """The first `size` bytes, unpacked when gzipped. Raises InvalidInput when the gzip stream is damaged."""
    with path.open("rb") as raw:
        start = raw.read(size)
        if not start.startswith(_GZIP_MAGIC):
            return start
        raw.seek(0)
        try:
            with gzip.GzipFile(fileobj=raw) as unzipped:
                return unzipped.read(size)
        except (EOFError, OSError, zlib.error) as exc:
            raise InvalidInput(
                f"the gzip file is damaged: {exc}; upload it again", code="damaged_file"
            ) from exc
