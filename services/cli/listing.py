"""Rows of objects as columns on stdout, or as the JSON that the gateway sent. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size

from services.cli.output import err, out, print_json
from services.cli.waterfall import plain

Column = tuple[str, Callable[[Mapping[str, Any]], Any]]
WIDEST = 48


def show(page: Mapping[str, Any], columns: Sequence[Column], *, as_json: bool, nothing: str) -> None:
    """One line an object; `nothing` is said on stderr for an empty list."""
    if as_json:
        print_json(page)
        return
    if not page["data"]:
        err.print(nothing)
        return
    cells = [[text(of(row)) for _, of in columns] for row in page["data"]]
    table = [[name for name, _ in columns], *cells]
    widths = [min(WIDEST, max(cell_len(line[i]) for line in table)) for i in range(len(columns))]
    for line in table:
        sized = [set_cell_size(cell, width) for cell, width in zip(line[:-1], widths, strict=False)]
        out.print("  ".join([*sized, line[-1]]).rstrip())
    if page.get("has_more"):
        err.print("there are more; --limit shows up to 100")


def show_one(thing: Mapping[str, Any], *, as_json: bool) -> None:
    """Name and value on a line each; what is empty is left out."""
    if as_json:
        print_json(thing)
        return
    shown = {name: text(value) for name, value in thing.items() if value not in (None, {}, [], "")}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        out.print(f"{name:<{width}}  {value}")


def text(value: Any) -> str:
    """A value as one line that cannot move the cursor."""
    return plain("" if value is None else str(value))


def moment(unix: int | None) -> str:
    """Local date and time of unix seconds."""
    return datetime.fromtimestamp(unix).astimezone().strftime("%m-%d %H:%M:%S") if unix is not None else ""


def field(name: str) -> Column:
    return name, lambda row: row[name]


def when(name: str) -> Column:
    return name.removesuffix("_at"), lambda row: moment(row[name])
