"""The engine's process as a training worker asks it: how it is stopped, and what its death means."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.training.engine_check import check_engine
from shared.errors import HeliuError
from shared.stop import ChildCrashed, Stop, Stopped


class Job:
    """A job's context that counts its signs of life."""

    def __init__(self, reason: Stop | None = None) -> None:
        self.reason = reason
        self.touched = 0

    def touch(self) -> None:
        self.touched += 1


def test_a_job_that_shall_stop_does_not_wait_for_the_engine(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(Stopped) as caught:
        check_engine(Job(Stop.CANCEL), tiny_base, None, tmp_path, threads=1, grace_s=60)
    assert caught.value.reason is Stop.CANCEL


def test_a_drain_waits_for_it_as_long_as_it_may(tmp_path: Path, tiny_base: Path) -> None:
    """It looks for samples that are not there, and gets to say so; without patience it is not heard."""
    with pytest.raises(HeliuError, match="the trainer's samples cannot be read"):
        check_engine(Job(Stop.DRAIN), tiny_base, None, tmp_path, threads=1, grace_s=60)
    with pytest.raises(Stopped) as caught:
        check_engine(Job(Stop.DRAIN), tiny_base, None, tmp_path, threads=1, grace_s=0)
    assert caught.value.reason is Stop.DRAIN


def test_an_engine_that_dies_is_a_crash_and_not_a_mismatch(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ChildCrashed):
        check_engine(Job(), tiny_base, None, tmp_path, threads=1, grace_s=1, module="shared.errors")
