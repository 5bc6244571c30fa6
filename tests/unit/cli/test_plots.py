"""A run's curves as characters: they fit the terminal, hold their ends, and need no colour."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from services.cli.plots import Curve, Look, heading, picture, span

NOW = 1_800_000_000.0


def job(**values: Any) -> dict[str, Any]:
    base = {"id": "ftjob-1", "status": "leased", "progress": {}, "estimated_finish": None}
    return {**base, "started_at": None, "finished_at": None, **values}


def drawn(look: Look, width: int = 100, *, color: bool = False) -> str:
    target = io.StringIO()
    console = Console(file=target, width=width, force_terminal=color, color_system="256" if color else None)
    console.print(picture(look, width, color=color))
    return target.getvalue()


CURVES: dict[str, Curve] = {
    "train_loss": [[step, 4.0 / step, NOW] for step in range(1, 41)],
    "valid_loss": [[20, 1.25, NOW], [40, 1.0, NOW]],
    "learning_rate": [[step, 1e-4 * step, NOW] for step in range(1, 41)],
    "tokens_per_second": [[step, 4000.0, NOW] for step in range(1, 41)],
}


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_picture_is_no_wider_than_its_terminal_and_has_both_losses(width: int) -> None:
    message = {"created_at": int(NOW), "message": "checkpoint at step 32"}
    look = Look(job(progress={"step": 40, "total_steps": 64}), CURVES, [message], NOW)
    text = drawn(look, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "train_loss 0.1  valid_loss 1" in text
    assert "learning_rate 0.004" in text
    assert "checkpoint at step 32" in text
    assert text.count("o") > 2, "the held-out loss has marks of its own"


def test_colours_come_only_where_they_are_asked_for() -> None:
    look = Look(job(), CURVES, (), NOW)
    assert "\x1b[" in drawn(look, color=True)
    assert "\x1b[" not in drawn(look)


@pytest.mark.parametrize(
    "curve", [[[1, 2.0, NOW]], [[1, 0.0, NOW], [2, 0.0, NOW]], [[5, -1e9, NOW], [6, 1e9, NOW]]]
)
def test_one_value_no_change_and_wild_values_are_drawn_too(curve: Curve) -> None:
    assert "train_loss" in drawn(Look(job(), {"train_loss": curve}, (), NOW))


def test_a_run_that_has_told_of_nothing_is_a_line() -> None:
    assert drawn(Look(job(status="queued"), {}, (), NOW)).strip() == "ftjob-1  queued"


def test_the_heading_tells_where_it_is_and_how_long_it_takes() -> None:
    running = job(progress={"step": 16, "total_steps": 64}, estimated_finish=int(NOW) + 200)
    assert heading(Look(running, {}, (), NOW)) == "ftjob-1  leased  step 16/64 (25%)  about 3 min 20 s left"
    ended = job(status="succeeded", started_at=100, finished_at=7400)
    assert heading(Look(ended, {}, (), NOW)) == "ftjob-1  succeeded  took 2 h 1 min"
    assert span(59.4) == "59 s"
