"""When a run will end, by arithmetic on the times that it told."""

from __future__ import annotations

import pytest

from services.training.tracking.pace import WINDOW, Pace


def test_nothing_is_known_before_two_steps_were_told() -> None:
    pace = Pace()
    assert pace.look() is None
    pace.step(5, 100, 1000.0)
    assert pace.look() is None
    pace.step(5, 100, 1001.0)
    assert pace.look() is None


def test_a_steady_run_ends_after_the_steps_that_are_left() -> None:
    pace = Pace()
    pace.step(10, 100, 1000.0)
    pace.step(20, 100, 1005.0)
    look = pace.look()
    assert look is not None
    assert (look.step_seconds, look.whole_step_seconds, look.finish) == (0.5, 0.5, 1005.0 + 80 * 0.5)


def test_checks_and_saves_count_by_their_share_and_the_last_save_comes_at_the_end() -> None:
    pace = Pace()
    pace.interrupt("eval", 1000.0)  # before the first step: no part of how fast the steps are
    pace.step(0, 40, 1000.0)
    pace.interrupt("eval", 2.0)
    pace.interrupt("checkpoint", 4.0)
    pace.interrupt("epoch", 16.0)  # lasts through the steps themselves
    pace.step(10, 40, 1016.0)
    look = pace.look()
    assert look is not None
    assert look.step_seconds == pytest.approx(1.0)
    assert look.whole_step_seconds == pytest.approx(1.6)
    assert look.finish == pytest.approx(1016.0 + 30 * 1.6 + 4.0)


def test_only_the_last_steps_say_how_fast_it_goes_now() -> None:
    pace = Pace()
    for number in range(20):
        pace.step(number, 1000, number * 10.0)
    for number in range(1, WINDOW + 1):
        pace.step(19 + number, 1000, 190.0 + number)
    look = pace.look()
    assert look is not None
    assert look.finish == pytest.approx(200.0 + (1000 - 29) * 1.0)


def test_a_run_that_was_cut_short_ends_earlier_and_one_that_is_done_ends_now() -> None:
    pace = Pace()
    pace.step(1, 1000, 0.0)
    pace.step(2, 3, 1.0)
    assert (look := pace.look()) is not None
    assert look.finish == pytest.approx(2.0)
    pace.step(3, 3, 2.0)
    assert (look := pace.look()) is not None
    assert look.finish == pytest.approx(2.0)


def test_what_is_known_to_come_behind_the_steps_takes_the_place_of_a_save() -> None:
    pace = Pace()
    pace.step(0, 40, 1000.0)
    pace.interrupt("checkpoint", 4.0)
    pace.step(10, 40, 1014.0)
    pace.behind = 30.0
    look = pace.look()
    assert look is not None
    assert look.finish == pytest.approx(1014.0 + 30 * 1.4 + 30.0)
    assert pace.mean_step_seconds == pytest.approx(1.4)
    assert (pace.since_last(1020.0), pace.since_last(1000.0), Pace().since_last(9.0)) == (6.0, 0.0, 0.0)
    pace.step(40, 40, 1050.0)
    assert (look := pace.look()) is not None
    assert look.finish == pytest.approx(1080.0)


def test_the_mean_is_over_all_steps_however_the_last_ones_went() -> None:
    pace = Pace()
    assert pace.mean_step_seconds is None
    pace.step(0, 1000, 0.0)
    for number in range(1, WINDOW + 6):
        pace.step(number, 1000, number * 10.0)
    assert pace.mean_step_seconds == pytest.approx(10.0)
