"""Order and schedule: every row once an epoch, the same for the same seed, a curve that ends."""

from __future__ import annotations

import numpy as np
import pytest

from services.training.plan import Schedule, epochs_for, order


def test_every_epoch_holds_every_row_once() -> None:
    rows = order(list(range(1, 101)), epochs=3, batch_size=8, seed=5)
    for epoch in rows.reshape(3, 100):
        assert sorted(epoch.tolist()) == list(range(100))


def test_the_same_seed_gives_the_same_order_and_epochs_differ() -> None:
    lengths = [7, 3, 9, 1] * 25
    first = order(lengths, epochs=2, batch_size=4, seed=1)
    assert np.array_equal(first, order(lengths, epochs=2, batch_size=4, seed=1))
    assert not np.array_equal(first[:100], first[100:])
    assert not np.array_equal(first, order(lengths, epochs=2, batch_size=4, seed=2))


def test_batches_hold_rows_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 320)
    rows = order(lengths.tolist(), epochs=1, batch_size=10, seed=3)
    batches = lengths[rows].reshape(-1, 10)
    padded = batches.max(axis=1).sum() * 10
    assert lengths.sum() / padded > 0.9


def test_the_rate_warms_up_and_decays_to_a_tenth() -> None:
    schedule = Schedule.of(100, 0.1, None)
    curve = [schedule.factor(step) for step in range(101)]
    assert curve[:10] == sorted(curve[:10])
    assert curve[10] == 1.0
    assert curve[10:] == sorted(curve[10:], reverse=True)
    assert curve[100] == pytest.approx(0.1)


def test_a_schedule_of_one_step_has_a_rate() -> None:
    assert Schedule.of(1, 0.05, None).factor(0) > 0


def test_a_tiny_time_budget_cuts_the_run_once_and_the_cut_is_kept() -> None:
    schedule = Schedule.of(1000, 0.1, 1e-9)
    cuts = [step for step in range(1, 40) if schedule.after_step(step)]
    assert len(cuts) == 1
    assert schedule.total == cuts[0]
    again = Schedule.of(1000, 0.1, 1e-9)
    again.restore(schedule.state())
    assert again.total == schedule.total
    assert not any(again.after_step(step) for step in range(1, 40))


def test_epochs_follow_the_size_of_the_corpus() -> None:
    assert epochs_for(100, 1000, 20) == 10
    assert epochs_for(10, 1000, 20) == 20
    assert epochs_for(10**9, 1000, 20) == 1
