"""When a peak of live requests begins, and when it is over."""

from __future__ import annotations

import pytest

from services.dispatcher.preempt import Peak, Thresholds
from shared.errors import ConfigurationError
from shared.settings import PreemptRule, read_settings

LIMITS = Thresholds(waiting=8, seconds=5.0, calm_seconds=60.0)


def looks(*told: tuple[float, int]) -> Peak:
    """A peak's judge after looks of (second, waiting)."""
    peak = Peak(LIMITS, 0.0)
    for at, waiting in told:
        peak.look(waiting, at)
    return peak


def test_a_line_must_be_long_for_a_while() -> None:
    assert not looks((1, 8), (5, 20)).on
    assert looks((1, 8), (5, 20), (6, 8)).on


def test_a_burst_that_is_served_is_no_peak() -> None:
    assert not looks((1, 30), (4, 7), (6, 30), (9, 30)).on


def test_a_peak_goes_on_until_nobody_has_waited_for_long() -> None:
    peak = looks((1, 9), (6, 9), (7, 0), (66, 0))
    assert (peak.on, peak.over) == (True, False)
    peak.look(0, 67)
    assert (peak.on, peak.over) == (False, True)


def test_one_who_waits_starts_the_calm_anew() -> None:
    peak = looks((1, 9), (6, 9), (7, 0), (60, 1), (61, 0), (120, 0))
    assert peak.on
    peak.look(0, 121)
    assert not peak.on


def test_a_dispatcher_that_has_just_started_lets_nothing_go_before_a_calm_of_its_own() -> None:
    assert not looks((59, 0)).over
    assert looks((60, 0)).over
    assert not looks((60, 0), (61, 1)).over


def test_rules_name_a_queue_of_training_and_a_pool_of_inference() -> None:
    settings = read_settings(
        {"HELIU_PREEMPT": "training.default:inference.default, training.h200:inference.h200"}
    )
    assert settings.preempt_rules == (
        PreemptRule("training.default", "inference.default"),
        PreemptRule("training.h200", "inference.h200"),
    )
    assert str(settings.preempt_rules[0]) == "training.default:inference.default"


@pytest.mark.parametrize(
    "environ",
    [
        {"HELIU_PREEMPT": "training.default"},
        {"HELIU_PREEMPT": "inference.default:training.default"},
        {"HELIU_PREEMPT": "training.a:inference.b:c"},
        {"HELIU_PREEMPT": "training.light:inference.default"},
        {"HELIU_PREEMPT_WAITING": "0"},
        {"HELIU_PREEMPT_SECONDS": "-1"},
    ],
)
def test_rules_that_mean_nothing_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="HELIU_PREEMPT"):
        read_settings(environ)
