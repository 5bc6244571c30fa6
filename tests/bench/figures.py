"""What a benchmark says: a figure beside its peer's in the same run, as a table and as JSON. Measures nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a machine that measures a GPU may have neither
    from rich.console import Console

KEYS = ("name", "value", "unit", "peer", "peer_value", "ratio")


@dataclass(frozen=True)
class Figure:
    """`ratio` is value over peer_value; `how` says in one line how it was measured and what is good."""

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    how: str

    @property
    def ratio(self) -> float:
        return self.value / self.peer_value

    def as_json(self) -> dict[str, Any]:
        found = {**asdict(self), "ratio": self.ratio}
        return {key: round(found[key], 4) if isinstance(found[key], float) else found[key] for key in KEYS}


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: a value that was measured, the largest for a share near 1 of a few."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def show(figures: Sequence[Figure], console: Console) -> None:
    from rich.table import Table

    table = Table(show_lines=False, pad_edge=False)
    for heading, justify in (
        ("name", "left"),
        ("value", "right"),
        ("unit", "left"),
        ("peer", "left"),
        ("peer value", "right"),
        ("ratio", "right"),
        ("how", "left"),
    ):
        table.add_column(heading, justify=justify, no_wrap=heading in ("name", "ratio"))  # type: ignore[arg-type]
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.value:,.1f}",
            figure.unit,
            figure.peer,
            f"{figure.peer_value:,.1f}",
            f"{figure.ratio:.2f}",
            figure.how,
        )
    console.print(table)


def write(figures: Sequence[Figure], path: Path) -> None:
    path.write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n", encoding="utf-8")
