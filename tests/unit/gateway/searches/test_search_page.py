"""The page of a search: every value escaped, every place finite, and axes that can be read."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.gateway.searches.page import POLICY, render_search
from services.gateway.searches.page.axes import Axis, around, of_range
from shared.contracts.searches import Choices, Dimension, FloatRange, RunSearch
from shared.jobs import Job, Status

EVIL = "<script>alert(1)</script>"
RATE = "hyperparameters.learning_rate"
START = datetime(2026, 1, 1, tzinfo=UTC)


def job(**values: Any) -> Job:
    asked = RunSearch(
        asked={"type": "head", "name": EVIL},
        job_kind="training.train_head",
        job_queue="training.default",
        job={},
        space=(
            Dimension(path=RATE, range=FloatRange(type="float", low=1e-4, high=1.0, log=True), place=RATE),
            Dimension(
                path="loss",
                range=Choices(type="categorical", choices=(EVIL, ["a"], None)),
                patches=({}, {}, {}),
            ),
        ),
        metric="valid_loss",
        direction="minimize",
        trials=9,
    )
    row: dict[str, Any] = dict.fromkeys(field.name for field in fields(Job))
    row |= {
        "id": "search-1",
        "state": "queued",
        "payload": asked.dump(),
        "progress": {},
        "metadata": {},
        "created_at": START,
        "started_at": START,
    }
    return Job.from_row(row | values)


def row(number: int, state: str, value: float | None, **values: Any) -> dict[str, Any]:
    return {
        "number": number,
        "job_id": f"headjob-{number}",
        "params": {RATE: 10.0 ** -(number % 4), "loss": [EVIL, ["a"], None][number % 3]},
        "state": state,
        "value": value,
        "curve": {"5": [2.0, 10], "10": [value or 1.0, 10]} if state != "failed" else {},
        "error": {"code": "x", "message": EVIL} if state == "failed" else None,
        "created_at": START,
        "settled_at": None if state == "open" else START + timedelta(seconds=number),
        "job_state": "leased" if state == "open" else "succeeded",
        "job_error": None,
        "started_at": START,
        "finished_at": None,
        **values,
    }


def rows() -> list[dict[str, Any]]:
    states = ["complete", "complete", "pruned", "failed", "complete", "open", "complete"]
    values = [1.5, 1e12, 3.0, None, 0.5, None, -2.0]
    return [row(number, *pair) for number, pair in enumerate(zip(states, values, strict=True))]


def test_a_page_runs_nothing_of_what_it_shows() -> None:
    best = {"number": 6, "value": -2.0, "params": rows()[6]["params"]}
    shares = {"shares": {RATE: 0.75, "loss": 0.25}, "why_none": None}
    page = render_search(
        job(progress={"best": best, "importance": shares, "trials": {"complete": 4}}), rows()
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 5
    assert "style=" not in page
    assert "sha256-" in POLICY
    assert "75.0%" in page


def test_every_dot_and_line_has_a_place_on_its_plot() -> None:
    page = render_search(job(), rows())
    places = [float(x) for x in re.findall(r'(?:cx|cy)="([^"]+)"', page)]
    for points in re.findall(r'points="([^"]+)"', page):
        places += [float(x) for pair in points.split() for x in pair.split(",")]
    assert len(places) > 60
    assert all(math.isfinite(x) and 0 <= x <= 720 for x in places)
    assert len(re.findall(r'class="dot best"', page)) == 0
    assert "no trial has ended yet" in page


def test_a_search_without_trials_has_a_page() -> None:
    page = render_search(job(state=Status.FAILED, error={"code": "x", "message": "nothing"}), [])
    assert "None yet." in page
    assert "nothing" in page


def test_one_that_went_astray_does_not_flatten_the_others() -> None:
    axis = around([1.0, 1.1, 1.2, 1.3, 1e9], 200, 0, sign=-1)
    assert axis.place(1e9) == 0
    assert axis.place(1.0) - axis.place(1.2) > 40
    assert around([], 0, 1).marks
    assert around([2.0], 0, 100).place(2.0) == 50


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (Axis(0.0, 1.0, 0, 100), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis(1e-4, 1.0, 0, 100, log=True), ["0.0001", "0.001", "0.01", "0.1", "1"]),
        (Axis(2.0, 3.0, 0, 100, log=True), ["2", "3"]),
        (Axis(5.0, 5.0, 0, 100), ["5"]),
        (of_range({"type": "categorical", "choices": ["a", None]}, 0, 100), ["a", "None"]),
    ],
)
def test_an_axis_is_marked_at_round_values(axis: Axis, texts: list[str]) -> None:
    assert [mark.text for mark in axis.marks] == texts
    assert all(0 <= mark.at <= 100 for mark in axis.marks)
