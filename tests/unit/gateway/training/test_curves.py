"""Curves with no more points than were asked for: what is left out is never a peak, a dip or an end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.training.curves import Point, curves, thin
from shared.job_metrics import StepMetrics

START = datetime(2026, 1, 1, tzinfo=UTC)


def points(values: list[float]) -> list[Point]:
    return [Point(step, value, step * 10.0) for step, value in enumerate(values)]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(4, 60))
def test_a_thinned_curve_has_its_ends_and_extremes_in_order(values: list[float], most: int) -> None:
    whole = points(values)
    kept = thin(whole, most)
    assert len(kept) <= most
    assert (kept[0], kept[-1]) == (whole[0], whole[-1])
    assert [p.step for p in kept] == sorted({p.step for p in kept})
    assert set(kept) <= set(whole)
    assert min(p.value for p in kept) == min(values)
    assert max(p.value for p in kept) == max(values)


@given(st.lists(st.floats(-1e6, 1e6), max_size=60))
def test_a_curve_that_is_short_enough_is_whole(values: list[float]) -> None:
    assert thin(points(values), 60) == points(values)


def told(count: int, loss: list[float]) -> Iterator[StepMetrics]:
    for step in range(count):
        values = {"train_loss": loss[step], "learning_rate": 1.0}
        if step % 100 == 0:
            values["valid_loss"] = float(step)
        yield StepMetrics(step, START + timedelta(seconds=step), values)


def test_a_long_run_is_read_in_bounded_memory_and_keeps_its_extremes() -> None:
    dice = random.Random(5)
    loss = [dice.random() for _ in range(50_000)]
    loss[12_345], loss[40_000] = 9.0, -9.0
    found, last = curves(told(50_000, loss), 100)
    assert last == 49_999
    curve = found["train_loss"]
    assert (curve.count, curve.low, curve.high, len(curve.points) <= 100) == (50_000, -9.0, 9.0, True)
    assert {9.0, -9.0} <= {p.value for p in curve.points}
    assert (curve.points[0].step, curve.points[-1].step) == (0, 49_999)
    assert curve.points[1].at == START.timestamp() + curve.points[1].step


def test_only_the_metrics_that_were_asked_for_are_there() -> None:
    found, _ = curves(told(300, [0.0] * 300), 100, frozenset({"valid_loss", "no_such"}))
    assert {name: [p.step for p in curve.points] for name, curve in found.items()} == {
        "valid_loss": [0, 100, 200]
    }
    assert curves(iter(()), 100) == ({}, None)
