"""Rows of one file, whatever its format: CSV, JSONL, Parquet, Excel, plain text, PDF, DOCX. Knows no source."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import docx
import openpyxl
import pypdf

from services.data_governance.ingest import csv_records, jsonl
from services.data_governance.ingest.bad_rows import BadRowNote, BadRows
from services.data_governance.ingest.lines import LineFile, head
from services.data_governance.ingest.parquet import ParquetFile
from services.data_governance.ingest.sniff import HEAD_BYTES, check_encoding, detect
from shared.errors import InvalidInput

BATCH_ROWS = 1000
MAX_TEXT_BYTES = 16 * 1024 * 1024
MAX_PAGES = 5000
MAX_UNZIPPED = 512 * 1024 * 1024
PLAIN_TEXT = frozenset({".txt", ".md", ".markdown", ".text", ".log"})

Record = Mapping[str, Any]
Check = Callable[[], None]


@dataclass(frozen=True)
class Part:
    """Some rows, in order, and the line, row or page that each stands at."""

    records: Sequence[Record]
    places: Sequence[int]


@dataclass(frozen=True)
class BadPlace:
    """A line, row or page that cannot be read, and why."""

    place: int
    code: str
    message: str


def read(path: Path, name: str, check: Check) -> Iterator[Part | BadPlace]:
    """The rows of the file that is called `name`; `check` is called now and then and may raise.

    A text is one row (`title`, `text`), a PDF one row a page (and `page`), a sheet's first row names its columns.
    Raises InvalidInput for what is no such file, or too much of one.
    """
    suffix = PurePosixPath(name.lower()).suffix
    if suffix in PLAIN_TEXT:
        return _text(path, name)
    if suffix == ".pdf":
        return _pdf(path, name, check)
    if suffix == ".docx":
        return _docx(path, name)
    if suffix in (".xlsx", ".xlsm"):
        return _excel(path, name, check)
    return _table(path, name, check)


def _table(path: Path, name: str, check: Check) -> Iterator[Part | BadPlace]:
    start = head(path, HEAD_BYTES)
    kind = detect(start, name)
    notes: list[BadRowNote] = []
    bad = BadRows(notes.append)
    if kind == "parquet":
        parquet = ParquetFile(path, on_read=check)
        opened: ParquetFile | LineFile = parquet
        found = parquet.records(bad)
    else:
        check_encoding(start, name, "utf-8")
        opened = lines = LineFile(path, on_read=check)
        found = (
            iter(csv_records.Records(lines, "utf-8", bad))
            if kind == "csv"
            else jsonl.records(lines, "utf-8", bad)
        )
    with closing(opened):
        held: list[tuple[int, Record]] = []
        for place, _, record in found:
            held.append((place, record))
            if len(held) >= BATCH_ROWS:
                yield _part(held)
                held = []
            yield from _noted(notes)
        yield _part(held)
        yield from _noted(notes)


def _part(held: Sequence[tuple[int, Record]]) -> Part:
    return Part([record for _, record in held], [place for place, _ in held])


def _noted(notes: list[BadRowNote]) -> Iterator[BadPlace]:
    for note in notes:
        yield BadPlace(note.line, note.code, note.message)
    notes.clear()


def _text(path: Path, name: str) -> Iterator[Part | BadPlace]:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise InvalidInput(
            f"`{name}` has more than {MAX_TEXT_BYTES} bytes; a text is one row", code="file_too_large"
        )
    raw = path.read_bytes()
    try:
        text = raw.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as exc:
        check_encoding(raw[:HEAD_BYTES], name, "utf-8")
        raise InvalidInput(
            f"`{name}` is not UTF-8: byte {exc.start} is 0x{raw[exc.start]:02x}; save it as UTF-8",
            code="wrong_encoding",
        ) from exc
    yield Part([{"title": PurePosixPath(name).stem, "text": text}], [1])


def _pdf(path: Path, name: str, check: Check) -> Iterator[Part | BadPlace]:
    title = PurePosixPath(name).stem
    try:
        reader = pypdf.PdfReader(path)
        pages = len(reader.pages)
    except Exception as exc:
        # The library raises whatever a broken file makes of its parts.
        raise _damaged(name, "PDF", exc) from exc
    if pages > MAX_PAGES:
        raise InvalidInput(f"`{name}` has {pages} pages, at most {MAX_PAGES} are read", code="file_too_large")
    for number in range(pages):
        check()
        try:
            text = reader.pages[number].extract_text()
        except Exception as exc:  # noqa: BLE001
            yield BadPlace(number + 1, "damaged_file", f"page {number + 1}: {type(exc).__name__}")
            continue
        yield Part([{"title": title, "page": number + 1, "text": text}], [number + 1])


def _docx(path: Path, name: str) -> Iterator[Part | BadPlace]:
    _check_zip(path, name, "DOCX")
    try:
        document = docx.Document(str(path))
        parts = [paragraph.text for paragraph in document.paragraphs]
        parts += [
            "\t".join(cell.text for cell in row.cells) for table in document.tables for row in table.rows
        ]
    except Exception as exc:
        raise _damaged(name, "DOCX", exc) from exc
    yield Part([{"title": PurePosixPath(name).stem, "text": "\n".join(parts)}], [1])


def _excel(path: Path, name: str, check: Check) -> Iterator[Part | BadPlace]:
    _check_zip(path, name, "Excel")
    # By an open file, for the library judges a path by its name.
    with path.open("rb") as raw:
        try:
            book = openpyxl.load_workbook(raw, read_only=True, data_only=True, keep_links=False)
        except Exception as exc:
            raise _damaged(name, "Excel", exc) from exc
        with closing(book):
            several, number = len(book.worksheets) > 1, 0
            for sheet in book.worksheets:
                for part in _sheet(sheet, name, several, check):
                    yield Part(part, range(number + 1, number + len(part) + 1))
                    number += len(part)


def _cells(rows: Iterator[tuple[Any, ...]], name: str) -> Iterator[tuple[Any, ...]]:
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as exc:
            raise _damaged(name, "Excel", exc) from exc
        yield row


def _sheet(sheet: Any, name: str, several: bool, check: Check) -> Iterator[Sequence[Record]]:
    rows = _cells(iter(sheet.iter_rows(values_only=True)), name)
    header = next((row for row in rows if any(cell is not None for cell in row)), ())
    names = [str(cell).strip() if cell is not None else "" for cell in header]
    used = [text for text in names if text]
    if len(set(used)) != len(used):
        twice = next(text for text in used if used.count(text) > 1)
        raise InvalidInput(
            f"`{name}`, sheet {sheet.title!r}: the name {twice!r} is there twice; each column needs its own",
            code="bad_header",
        )
    extra = {"sheet": sheet.title} if several else {}
    held: list[Record] = []
    for row in rows:
        cells = {text: cell for text, cell in zip(names, row, strict=False) if text}
        if any(cell is not None for cell in cells.values()):
            held.append({**extra, **cells})
        if len(held) >= BATCH_ROWS:
            check()
            yield held
            held = []
    yield held


def _check_zip(path: Path, name: str, kind: str) -> None:
    """A few bytes of a ZIP can stand for gigabytes, and its readers take them all."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as exc:
        raise _damaged(name, kind, exc) from exc
    if size > MAX_UNZIPPED:
        raise InvalidInput(
            f"`{name}` unpacks to {size} bytes, at most {MAX_UNZIPPED} are read; split it",
            code="decompressed_too_large",
        )


def _damaged(name: str, kind: str, exc: Exception) -> InvalidInput:
    return InvalidInput(
        f"`{name}` cannot be read as {kind}: {type(exc).__name__}; it is damaged, or protected by a password",
        code="damaged_file",
    )
