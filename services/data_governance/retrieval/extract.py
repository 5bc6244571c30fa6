"""The text of a file: plain text, Markdown, JSONL, CSV, PDF and DOCX, by its name and its first bytes. Knows no index.

Bounded: a document that unpacks to more than is served is refused before it is held whole.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docx
import pypdf
from docx.opc.exceptions import PackageNotFoundError
from pypdf.errors import PyPdfError

from shared.errors import InvalidInput

MAX_CHARS = 20_000_000
MAX_UNPACKED = 200_000_000
UNSUPPORTED, BROKEN = "unsupported_file", "invalid_file"
_TEXT = (".txt", ".md", ".markdown", ".text", ".log", ".rst", ".html", ".htm")


def extract(path: Path, filename: str) -> str:
    """The text, a row or paragraph a line. Raises InvalidInput `unsupported_file` or `invalid_file` with the reason."""
    with path.open("rb") as source:
        head = source.read(8)
    read = _reader(Path(filename).suffix.lower(), head)
    parts: list[str] = []
    size = 0
    for part in read(path):
        size += len(part) + 1
        if size > MAX_CHARS:
            raise InvalidInput(
                f"{filename!r} has more than {MAX_CHARS} characters of text; cut it into parts", code=BROKEN
            )
        parts.append(part)
    text = "\n".join(parts)
    if not text.strip():
        raise InvalidInput(
            f"{filename!r} has no text to search; a scan needs text recognition first", code=BROKEN
        )
    return text


def _reader(suffix: str, head: bytes) -> Callable[[Path], Iterator[str]]:
    if suffix == ".pdf" or head.startswith(b"%PDF"):
        return _pdf
    if suffix == ".docx":
        return _docx
    if suffix in (".jsonl", ".ndjson"):
        return _jsonl
    if suffix == ".json":
        return _json
    if suffix in (".csv", ".tsv"):
        return _tsv if suffix == ".tsv" else _csv
    if suffix in _TEXT or not suffix:
        return _plain
    raise InvalidInput(
        f"files that end in {suffix!r} are not read; served are text, Markdown, JSON, JSONL, CSV, PDF and DOCX",
        code=UNSUPPORTED,
    )


def _decoded(path: Path) -> str:
    """UTF-8, UTF-16 with its mark, or GB18030, which is what Chinese systems write beside UTF-8."""
    if path.stat().st_size > 4 * MAX_CHARS:
        raise InvalidInput(
            f"the file has more than {4 * MAX_CHARS} bytes of text; cut it into parts", code=BROKEN
        )
    raw = path.read_bytes()
    marked = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "gb18030"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" in text:
            break
        return text
    raise InvalidInput("the file is no text in UTF-8, UTF-16 or GB18030", code=BROKEN)


def _plain(path: Path) -> Iterator[str]:
    yield _decoded(path)


def _json(path: Path) -> Iterator[str]:
    try:
        yield "\n".join(_strings(json.loads(_decoded(path))))
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"the file is not JSON: {exc}", code=BROKEN) from exc


def _jsonl(path: Path) -> Iterator[str]:
    """A row is a paragraph: its texts, and what its messages say."""
    for number, line in enumerate(_decoded(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield "\n".join(_strings(json.loads(line))) + "\n"
        except (ValueError, RecursionError) as exc:
            raise InvalidInput(f"line {number} is not JSON: {exc}", code=BROKEN) from exc


def _strings(value: Any) -> Iterator[str]:
    """Every text in a value, in order; names of fields, roles and ids of messages say nothing."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if not (name in ("role", "id", "type") and isinstance(item, str)):
                yield from _strings(item)


def _csv(path: Path, delimiter: str = ",") -> Iterator[str]:
    """A row is a paragraph of `column: value`, so that a chunk tells what its numbers are."""
    rows = csv.reader(io.StringIO(_decoded(path)), delimiter=delimiter)
    try:
        names = next(rows, [])
        for row in rows:
            told = [
                f"{names[place] if place < len(names) else place + 1}: {cell}"
                for place, cell in enumerate(row)
                if cell.strip()
            ]
            if told:
                yield "\n".join(told) + "\n"
    except csv.Error as exc:
        raise InvalidInput(f"line {rows.line_num} is no CSV: {exc}", code=BROKEN) from exc


def _tsv(path: Path) -> Iterator[str]:
    yield from _csv(path, "\t")


def _pdf(path: Path) -> Iterator[str]:
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise InvalidInput("the PDF wants a password; store it without one", code=BROKEN)
        for page in reader.pages:
            yield page.extract_text() + "\n"
    except InvalidInput:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as exc:
        # pypdf tells of a broken file by whatever its parser happened to trip over.
        raise InvalidInput(f"the PDF cannot be read: {type(exc).__name__}: {exc}", code=BROKEN) from exc


def _docx(path: Path) -> Iterator[str]:
    """Paragraphs and rows of tables, in the document's order."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_UNPACKED:
            raise InvalidInput(
                f"the document unpacks to {unpacked} bytes; {MAX_UNPACKED} are read", code=BROKEN
            )
        with path.open("rb") as source:
            document = docx.Document(source)
        for block in document.iter_inner_content():
            if isinstance(block, docx.table.Table):
                for row in block.rows:
                    yield "\t".join(cell.text for cell in row.cells)
            else:
                yield block.text
    except (zipfile.BadZipFile, PackageNotFoundError, KeyError, ValueError, OSError) as exc:
        raise InvalidInput(f"the document is no DOCX: {exc}", code=BROKEN) from exc
