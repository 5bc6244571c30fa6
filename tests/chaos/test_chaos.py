"""The fault run as tests: a bounded one that every `make test` makes, and a long one."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.run import ChaosRun


def run(seconds: float) -> ChaosRun:
    seed = int(os.environ.get("CHAOS_SEED", secrets.randbelow(1_000_000)))
    made = ChaosRun(seed)
    made.run(seconds)
    return made


def assert_held(made: ChaosRun) -> None:
    told = made.summary
    assert told.held, told.text()
    assert set(told.faults) == set(FAULTS), "not every kind of fault came up"
    assert told.states.get("succeeded", 0) > 0
    assert told.rows > 0
    assert told.chats > 0


@pytest.mark.timeout(600)
def test_under_a_minute_of_every_fault_nothing_is_lost_doubled_or_unfenced() -> None:
    assert_held(run(60))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_under_half_an_hour_of_faults_nothing_is_lost_doubled_or_unfenced() -> None:
    assert_held(run(1800))
