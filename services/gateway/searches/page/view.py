"""What the page of a search shows, from its job and the rows of its trials. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.gateway.searches import shapes as search_shapes
from services.gateway.searches.page.axes import Axis, around, name, of_range
from services.gateway.shapes import Row
from shared.contracts.searches import canonical
from shared.jobs import Job

WIDE, HIGH = 720.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 708.0, 12.0, 222.0
# More lines than this are a carpet: the best stay, and the latest of the rest.
MOST_LINES = 60


@dataclass(frozen=True)
class Dot:
    """A trial at a place; `kind` is its state, or `best`."""

    x: float
    y: float
    kind: str
    title: str


@dataclass(frozen=True)
class Line:
    points: str
    kind: str
    title: str


@dataclass(frozen=True)
class Plot:
    """Dots and lines between two axes."""

    name: str
    across: Axis
    up: Axis
    under: str
    dots: tuple[Dot, ...] = ()
    lines: tuple[Line, ...] = ()


def look_at(job: Job, rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that the template needs, ready to be put down."""
    shown = search_shapes.search(job, [{**row, "trials": 1} for row in rows], rows)
    best = shown["best"]["number"] if shown["best"] else None
    kinds = {one["number"]: "best" if one["number"] == best else one["state"] for one in shown["trials"]}
    sign = 1 if shown["objective"]["direction"] == "maximize" else -1
    valued = [one for one in shown["trials"] if one["value"] is not None]
    plots = [_history(rows, valued, kinds, sign), _curves(shown["trials"], kinds, sign)]
    slices = [_slice(path, varies, valued, kinds, sign) for path, varies in shown["space"].items()]
    return {
        "search": shown,
        "created_at": job.created_at,
        "plots": [one for one in plots if one.dots or one.lines],
        "slices": [one for one in slices if one.dots],
        "parallel": _parallel(shown, valued, kinds, sign) if len(valued) > 1 else None,
        "importance": search_shapes.importance(job),
        "kinds": kinds,
        "box": (WIDE, HIGH),
        "frame": (LEFT, RIGHT, TOP, BOTTOM),
    }


def said(value: Any) -> str:
    """A value of a parameter or of the objective."""
    return name(value) if value is not None else "–"


def _title(trial: Mapping[str, Any]) -> str:
    params = ", ".join(f"{path} = {name(value)}" for path, value in trial["params"].items())
    return f"trial {trial['number']}, {trial['state']}: {said(trial['value'])} ({params})"


def _history(rows: Sequence[Row], valued: Sequence[Any], kinds: Mapping[int, str], sign: int) -> Plot:
    across = Axis(-0.5, max(1, len(rows)) - 0.5, LEFT, RIGHT)
    up = around([one["value"] for one in valued], BOTTOM, TOP, sign=sign)
    dots = [
        Dot(across.place(one["number"]), up.place(one["value"]), kinds[one["number"]], _title(one))
        for one in valued
    ]
    steps: list[tuple[float, float]] = []
    for number, value in _best_by_number(rows, sign):
        if steps:
            steps.append((across.place(number), steps[-1][1]))
        steps.append((across.place(number), up.place(value)))
    if steps:
        steps.append((RIGHT, steps[-1][1]))
    lines = (Line(_path(steps), "best", "the best until then"),) if steps else ()
    return Plot("History", across, up, "trial", tuple(dots), lines)


def _best_by_number(rows: Sequence[Row], sign: int) -> list[tuple[int, float]]:
    """The trials that were better than all of a lower number."""
    found: list[tuple[int, float]] = []
    for row in rows:
        if row["state"] == "complete" and (not found or sign * row["value"] > sign * found[-1][1]):
            found.append((row["number"], row["value"]))
    return found


def _curves(trials: Sequence[Any], kinds: Mapping[int, str], sign: int) -> Plot:
    told = [one for one in trials if one["intermediate_values"]]
    told = sorted(told, key=lambda one: (kinds[one["number"]] == "best", one["number"]))[-MOST_LINES:]
    across = Axis(0, 100, LEFT, RIGHT)
    up = around([p["value"] for one in told for p in one["intermediate_values"]], BOTTOM, TOP, sign=sign)
    lines, dots = [], []
    for one in told:
        places = [
            (across.place(100 * p["step"] / max(1, p["total_steps"])), up.place(p["value"]))
            for p in one["intermediate_values"]
        ]
        lines.append(Line(_path(places), kinds[one["number"]], _title(one)))
        dots.append(Dot(*places[-1], kinds[one["number"]], _title(one)))
    return Plot("Curves", across, up, "share of the run's steps, %", tuple(dots), tuple(lines))


def _slice(
    path: str, varies: dict[str, Any], valued: Sequence[Any], kinds: Mapping[int, str], sign: int
) -> Plot:
    across = of_range(varies, LEFT, RIGHT)
    up = around([one["value"] for one in valued], BOTTOM, TOP, sign=sign)
    dots = [
        Dot(
            across.place(_number(varies, one["params"][path])),
            up.place(one["value"]),
            kinds[one["number"]],
            _title(one),
        )
        for one in valued
    ]
    return Plot(path, across, up, path, tuple(dots))


def _parallel(shown: Mapping[str, Any], valued: Sequence[Any], kinds: Mapping[int, str], sign: int) -> Any:
    """An upright axis for each parameter and one for the objective; a line is a trial."""
    paths = list(shown["space"])
    axes = [of_range(shown["space"][path], BOTTOM, TOP) for path in paths]
    up = around([one["value"] for one in valued], BOTTOM, TOP, sign=sign)
    apart = (RIGHT - LEFT) / len(paths)
    at = [round(LEFT + i * apart, 1) for i in range(len(paths) + 1)]
    ordered = sorted(valued, key=lambda one: (kinds[one["number"]] == "best", sign * one["value"]))
    lines = []
    for one in ordered[-MOST_LINES:]:
        heights = [
            axis.place(_number(shown["space"][path], one["params"][path]))
            for path, axis in zip(paths, axes, strict=True)
        ]
        places = list(zip(at, [*heights, up.place(one["value"])], strict=True))
        lines.append(Line(_path(places), kinds[one["number"]], _title(one)))
    names = [*(path.rpartition(".")[2] for path in paths), shown["objective"]["metric"]]
    return {"axes": list(zip(at, [*axes, up], names, strict=True)), "lines": lines}


def _number(varies: Mapping[str, Any], value: Any) -> float:
    if varies["type"] != "categorical":
        return float(value)
    return float([canonical(one) for one in varies["choices"]].index(canonical(value)))


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)
