"""What a file is: by its content first, then by its name. Says what to do where it is nothing that can be read."""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import Literal

from shared.errors import InvalidInput

Format = Literal["jsonl", "csv", "parquet"]
HEAD_BYTES = 256 * 1024

_BY_NAME: dict[str, Format] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv", ".txt"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_KNOWN = "CSV, JSONL (either may be gzipped) or Parquet"
_NOT_OURS = {
    b"PK\x03\x04": "a ZIP or Excel file; save the sheet as CSV in UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file; save it as CSV in UTF-8",
    b"%PDF": "a PDF",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"\x28\xb5\x2f\xfd": "a Zstandard file; unpack it, or compress it with gzip",
    b"BZh": "a bzip2 file; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "an xz file; unpack it, or compress it with gzip",
    b"PARE": "an encrypted Parquet file; write it without encryption",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"SQLite format 3": "a SQLite database; export the table as CSV",
}
_UTF8_BOM = b"\xef\xbb\xbf"
# Lead and trail bytes of GB 2312 level 1, the 3,755 characters that make up nearly all Chinese text.
_GB_COMMON = re.compile(rb"[\xb0-\xd7][\xa1-\xfe]|[\xa1\xa3][\xa1-\xfe]")
_HIGH = re.compile(rb"[\x80-\xff]")


def detect(head: bytes, name: str) -> Format:
    """The format of a file that starts with `head` and is called `name`. Raises InvalidInput."""
    if not head.strip():
        raise InvalidInput(f"`{name}` is empty; a data file is {_KNOWN}", code="empty_file")
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, what in _NOT_OURS.items():
        if head.startswith(magic):
            raise _refused(name, what)
    if head.count(b"\x00") * 10 > len(head):
        raise _refused(name, "binary data, or UTF-16 text without its mark; text must be UTF-8")
    if b"\r" in head and b"\n" not in head and len(head) > 1:
        raise _refused(name, "text with the line ends of old Macs (CR); save it with LF or CRLF")
    # The first lines tell; a single line may be cut where the head ends, and then its first characters have to do.
    lines = [line.strip() for line in head.removeprefix(_UTF8_BOM).split(b"\n") if line.strip()]
    if shape := _not_by_line(lines):
        raise _refused(name, f"{shape}; write one object a line (`jq -c '.[]' in.json > out.jsonl`)")
    by_name = _BY_NAME.get(_suffix(name))
    # In a CSV file a cell may hold lines of JSON, but its first line is a header.
    telling = lines[:1] if by_name == "csv" else lines[:20]
    if any(_is_object(line) for line in telling) or (len(lines) == 1 and lines[0].startswith(b'{"')):
        return "jsonl"
    if by_name == "parquet":
        raise _refused(name, "no Parquet file, although its name says so; write it again")
    if by_name is not None:
        return by_name
    if re.search(rb"[,;\t|]", lines[0]) and _HIGH.sub(b"", lines[0]).decode("ascii", "ignore").isprintable():
        return "csv"
    if b"\t" in lines[0]:
        return "csv"
    raise _refused(name, "of no known format")


def check_encoding(head: bytes, name: str, encoding: str) -> None:
    """Raises InvalidInput when text declared as UTF-8 is clearly GBK or GB 18030.

    Single damaged lines are bad rows; a whole file in another encoding is one clear error.
    """
    if encoding != "utf-8":
        return
    broken = bytearray()
    high_lines = 0
    for line in head.split(b"\n")[:-1] or [head]:
        if not line.isascii():
            high_lines += 1
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                broken += line + b"\n"
    pairs = sum(len(pair) for pair in _GB_COMMON.findall(bytes(broken)))
    high = len(_HIGH.findall(bytes(broken)))
    if high >= 8 and pairs >= high * 0.9 and broken.count(b"\n") * 2 > high_lines:
        raise InvalidInput(
            f"`{name}` is encoded in GB18030 (GBK), not in UTF-8; save it as UTF-8, or give "
            '{"input": {"encoding": "gb18030"}} with the columns in the recipe',
            code="wrong_encoding",
            param="input.encoding",
        )


def _not_by_line(lines: list[bytes]) -> str | None:
    """What JSON it is that does not hold one object a line; None for JSONL, however dirty, and for CSV."""
    if lines[0] == b"[" or lines[0].startswith((b"[{", b"[ {")):
        return "one JSON array"
    if lines[0] == b"{" or (lines[0].startswith(b"{") and not _is_object(lines[0]) and lines[1:2] == [b"}"]):
        return "JSON over several lines"
    return None


def _is_object(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _suffix(name: str) -> str:
    return PurePath(name.lower().removesuffix(".gz")).suffix


def _refused(name: str, what: str) -> InvalidInput:
    return InvalidInput(f"`{name}` is {what}. A data file is {_KNOWN}", code="unsupported_format")
