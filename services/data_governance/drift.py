"""How far a version's quality report has moved from that of the version before it. Pure.

Every figure is a population stability index (PSI) over shares: sum over the cells of (now - before) * ln(now / before),
which is symmetric (Jeffreys' divergence). Its bounds are those of credit scoring: below 0.1 nothing has moved, below
0.25 somewhat, from there on it has (Siddiqi, "Credit Risk Scorecards", 2006). Two draws of n and m rows from one source
differ by about (cells - 1) * (1/n + 1/m) by chance alone (Yurdakul and Naranjo, "Statistical properties of the
population stability index", 2020); each figure says it, since small versions with many labels exceed the bounds by it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

MODERATE, SHIFTED = 0.1, 0.25
# A share of nothing has no logarithm; one row in ten thousand stands for it.
FLOOR = 1e-4
MOST_CELLS = 12
MOST_NAMED = 100
OTHER = "(other)"

Report = Mapping[str, Any]
Cells = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sides:
    """One distribution twice: by cell how many (or which share), and of how many rows each stands."""

    before: Cells
    now: Cells
    rows_before: int
    rows_now: int


def compare(before: Report, now: Report) -> dict[str, Any]:
    """`{"psi", "verdict", "figures", "labels": {"new", "vanished"}}`; `psi` is that of the figure that moved most.

    A figure is `{"name", "psi", "verdict", "chance", "cells": [{"name", "before", "after"}]}`, its cells in shares, at
    most a dozen, those that moved most first. Figures that one of the reports cannot tell are left out.
    """
    figures = [_figure(name, sides) for name, sides in _sides(before, now)]
    worst = max((figure["psi"] for figure in figures), default=0.0)
    return {
        "psi": worst,
        "verdict": verdict(worst),
        "figures": figures,
        "labels": asdict(_names(before.get("labels", {}), now.get("labels", {}))),
    }


def verdict(value: float) -> str:
    """`stable`, `moderate` or `shifted`."""
    if value < MODERATE:
        return "stable"
    return "moderate" if value < SHIFTED else "shifted"


def psi(before: Cells, now: Cells) -> float:
    """The index of two distributions over the union of their cells; 0 where either has nothing."""
    return sum(_moved(old, new) for _, old, new in _shares(before, now))


def _sides(before: Report, now: Report) -> Iterator[tuple[str, Sides]]:
    kept = (int(before.get("rows_kept", 0)), int(now.get("rows_kept", 0)))
    read = (int(before.get("rows_in", 0)), int(now.get("rows_in", 0)))
    if before.get("scripts") and now.get("scripts"):
        yield "scripts", Sides(before["scripts"], now["scripts"], *kept)
    if _labelled(before) or _labelled(now):
        cells = _labels(before.get("labels", {}), now.get("labels", {}))
        yield "labels", Sides(_with_unlabelled(before, cells[0]), _with_unlabelled(now, cells[1]), *kept)
    if before.get("lengths") and now.get("lengths"):
        yield "lengths", Sides(before["lengths"], now["lengths"], *kept)
    if all(read):
        yield "dropped", Sides(_dropped(before), _dropped(now), *read)
        yield "pii_masked", Sides(_masked(before), _masked(now), *read)


def _figure(name: str, sides: Sides) -> dict[str, Any]:
    shares = _shares(sides.before, sides.now)
    value = round(sum(_moved(old, new) for _, old, new in shares), 4)
    largest = sorted(shares, key=lambda cell: (-_moved(cell[1], cell[2]), cell[0]))[:MOST_CELLS]
    rows = (max(sides.rows_before, 1), max(sides.rows_now, 1))
    return {
        "name": name,
        "psi": value,
        "verdict": verdict(value),
        "chance": round((max(len(shares), 1) - 1) * sum(1 / count for count in rows), 4),
        "cells": [
            {"name": cell, "before": round(old, 4), "after": round(new, 4)} for cell, old, new in largest
        ],
    }


def _shares(before: Cells, now: Cells) -> list[tuple[str, float, float]]:
    total_before, total_now = sum(before.values()), sum(now.values())
    if not total_before or not total_now:
        return []
    names = sorted(before.keys() | now.keys())
    return [(name, before.get(name, 0) / total_before, now.get(name, 0) / total_now) for name in names]


def _moved(old: float, new: float) -> float:
    old, new = max(old, FLOOR), max(new, FLOOR)
    return (new - old) * math.log(new / old)


def _dropped(report: Report) -> Cells:
    kept = report.get("rows_kept", 0)
    return {"kept": kept, "dropped": report["rows_in"] - kept}


def _masked(report: Report) -> Cells:
    """Places masked against rows read, by type: a rate a row that may exceed 1, as shares of one whole."""
    return {"(rows)": report["rows_in"], **report.get("pii", {}).get("masked", {})}


def _labelled(report: Report) -> bool:
    return bool(report.get("labels", {}).get("counts"))


def _with_unlabelled(report: Report, cells: Cells) -> Cells:
    missing = report.get("nulls", {}).get("label", 0)
    return {**cells, "(none)": missing} if missing else cells


def _labels(before: Report, now: Report) -> tuple[Cells, Cells]:
    """Counts by label. A report lists the first thousand labels only; where one does, what both list is compared."""
    old, new = before.get("counts", {}), now.get("counts", {})
    if not before.get("rows_beyond_listed") and not now.get("rows_beyond_listed"):
        return old, new
    shared = old.keys() & new.keys()
    return _pooled(before, shared), _pooled(now, shared)


def _pooled(labels: Report, named: Collection[str]) -> Cells:
    counts = labels.get("counts", {})
    told = {label: counts[label] for label in named}
    return {**told, OTHER: sum(counts.values()) - sum(told.values()) + labels.get("rows_beyond_listed", 0)}


@dataclass(frozen=True, slots=True)
class _Names:
    """Labels that only one side has, at most a hundred each; None where the other side does not list all of its own."""

    new: list[str] | None
    vanished: list[str] | None


def _names(before: Report, now: Report) -> _Names:
    old, new = before.get("counts", {}), now.get("counts", {})
    return _Names(
        new=None if before.get("rows_beyond_listed") else sorted(new.keys() - old.keys())[:MOST_NAMED],
        vanished=None if now.get("rows_beyond_listed") else sorted(old.keys() - new.keys())[:MOST_NAMED],
    )
