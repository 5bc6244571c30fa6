"""Records of a JSONL file: one object a line, strict about encoding and numbers. Knows no mapping."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from services.data_governance.ingest.bad_rows import BadRow, BadRows
from services.data_governance.ingest.lines import MAX_LINE_BYTES, Line, LineFile


def records(file: LineFile, encoding: str, bad: BadRows) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Line number, byte offset and object of every good line; the others are noted in `bad`. Blank lines are none."""
    for line in file:
        if line.data is not None and not line.data.strip():
            continue
        try:
            yield line.number, line.offset, _parse(decode(line, encoding))
        except BadRow as exc:
            bad.add(line.number, exc.code, exc.message, line.offset)


def decode(line: Line, encoding: str) -> str:
    """The text of a line, without the byte-order mark of the first. Raises BadRow."""
    data = line.data
    if data is None:
        raise BadRow("line_too_long", f"the line is longer than {MAX_LINE_BYTES} bytes")
    if line.number == 1:
        data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\x00" in data:
        raise BadRow("nul_character", f"byte {data.index(0)} of the line is NUL")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as exc:
        code = "invalid_utf8" if encoding == "utf-8" else "invalid_encoding"
        raise BadRow(
            code, f"byte {exc.start} of the line, 0x{data[exc.start]:02x}, is not valid {encoding.upper()}"
        ) from exc


def _parse(text: str) -> dict[str, Any]:
    try:
        value = _decode(text)
    except json.JSONDecodeError as exc:
        raise BadRow("not_json", f"column {exc.colno}: {exc.msg}") from exc
    except RecursionError as exc:
        raise BadRow("too_deep", "nested far too deep") from exc
    except ValueError as exc:  # a whole number of thousands of digits
        raise BadRow("not_json", str(exc).partition(";")[0]) from exc
    if not isinstance(value, dict):
        raise BadRow("not_an_object", f"each line must be a JSON object, not {_name(value)}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise BadRow("not_finite", f"{name} is not JSON; write null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise BadRow("duplicate_key", f"the key {twice[:80]!r} stands twice in one object")
    return found


_decode = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object).decode


def _name(value: object) -> str:
    if isinstance(value, list):
        return "a list"
    return "a string" if isinstance(value, str) else "null" if value is None else "a number, true or false"
