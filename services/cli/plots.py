"""A training run as a picture of characters: curves in braille, where it is, what it said. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotille
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.text import Text

from services.cli.listing import moment, text

# What the label column and the axis of a plot take beside its own width.
_FRAME = 18
_NARROWEST = 20
TRAIN, VALID = 4, 3
SPEEDS = ("tokens_per_second", "texts_per_second")

Curve = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Look:
    """A job, its curves by metric (points of [step, value, time]) and its newest messages, oldest first."""

    job: Mapping[str, Any]
    curves: Mapping[str, Curve]
    events: Sequence[Mapping[str, Any]] = ()
    now: float = 0.0


def picture(look: Look, width: int, *, color: bool) -> RenderableType:
    """The whole picture for a terminal of `width` columns; `color` tells curves apart by colour too."""
    losses = [("train_loss", TRAIN), ("valid_loss", VALID)]
    told = [(name, tint) for name, tint in losses if look.curves.get(name)]
    parts: list[RenderableType] = [Text(heading(look))]
    if told:
        labels = "  ".join(f"{name} {_number(look.curves[name][-1][1])}" for name, _ in told)
        parts += [Text(labels, style="bold"), plot(look.curves, told, width, 12, color=color)]
    small = [name for name in ("learning_rate", *SPEEDS) if look.curves.get(name)]
    half = max(_NARROWEST + _FRAME, width // 2 - 1) if len(small) > 1 else width
    panels = [
        Group(
            Text(f"{name} {_number(look.curves[name][-1][1])}", style="bold"),
            plot(look.curves, [(name, TRAIN)], half, 5, color=color),
        )
        for name in small
    ]
    if panels:
        parts.append(Columns(panels, padding=(0, 1)))
    for event in look.events:
        parts.append(Text(f"{moment(event['created_at'])}  {text(event['message'])}", style="dim"))
    return Group(*parts)


def heading(look: Look) -> str:
    """Id, state, step of how many, and when it will be done."""
    job, progress = look.job, look.job["progress"]
    parts = [str(job["id"]), str(job["status"])]
    if "step" in progress:
        total = progress.get("total_steps") or 0
        share = f" ({100 * progress['step'] / total:.0f}%)" if total else ""
        parts.append(f"step {progress['step']}/{total or '?'}{share}")
    if job.get("estimated_finish") is not None:
        parts.append(f"about {span(max(0.0, job['estimated_finish'] - look.now))} left")
    elif job["started_at"] is not None and job["finished_at"] is not None:
        parts.append(f"took {span(job['finished_at'] - job['started_at'])}")
    return "  ".join(parts)


def plot(
    curves: Mapping[str, Curve], names: Sequence[tuple[str, int]], width: int, height: int, *, color: bool
) -> Text:
    """The named curves in one frame; all but the first have a mark at each point."""
    figure = plotille.Figure()
    figure.width, figure.height = max(_NARROWEST, width - _FRAME), height
    figure.color_mode, figure.with_colors = "byte", color
    figure.register_label_formatter(float, _label)
    figure.y_label, figure.x_label = "", ""
    steps = [point[0] for name, _ in names for point in curves[name]]
    values = [point[1] for name, _ in names for point in curves[name]]
    figure.set_x_limits(*_limits(steps))
    figure.set_y_limits(*_limits(values))
    for number, (name, tint) in enumerate(names):
        points = curves[name]
        marker = "o" if number else None
        figure.plot([p[0] for p in points], [p[1] for p in points], lc=tint, marker=marker)
    # Without the line of the axes' names, which the line above the plot says better.
    lines = figure.show().split("\n")[1:]
    return Text.from_ansi("\n".join(line.removesuffix(" ()") for line in lines), no_wrap=True)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """A frame around the values; one value alone lies in its middle."""
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) / 2 or 0.5
        return low - room, high + room
    return low, high


def _label(value: float, chars: int, delta: float, left: bool = False) -> str:  # noqa: ARG001 - plotille's signature
    """Values stand at the right of their column, and steps, which are whole, at the left of their place."""
    return f"{value:.0f}".ljust(chars) if left else _number(value).rjust(chars)


def _number(value: float) -> str:
    """Four digits that count."""
    return f"{value:.4g}"


def span(seconds: float) -> str:
    """`5 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
