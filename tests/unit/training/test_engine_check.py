"""The engine's process as a training worker asks it: how it is stopped, and what its death means."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from services.training.engine_check import Served, check_engine
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
        check_engine(Job(Stop.CANCEL), [Served(tiny_base, None, tmp_path)], threads=1, grace_s=60)
    assert caught.value.reason is Stop.CANCEL


def test_a_drain_waits_for_it_as_long_as_it_may(tmp_path: Path, tiny_base: Path) -> None:
    """It looks for samples that are not there, and gets to say so; without patience it is not heard."""
    (found,) = check_engine(Job(Stop.DRAIN), [Served(tiny_base, None, tmp_path)] * 2, threads=1, grace_s=60)
    assert isinstance(found, HeliuError)
    assert "the trainer's samples cannot be read" in found.message
    with pytest.raises(Stopped) as caught:
        check_engine(Job(Stop.DRAIN), [Served(tiny_base, None, tmp_path)], threads=1, grace_s=0)
    assert caught.value.reason is Stop.DRAIN


def test_an_engine_that_dies_is_a_crash_and_not_a_mismatch(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ChildCrashed):
        check_engine(Job(), [Served(tiny_base, None, tmp_path)], threads=1, grace_s=1, module="shared.errors")


def test_a_checkpoint_that_differs_is_told_apart_from_the_end(tmp_path: Path, tiny_base: Path) -> None:
    """The samples of the base's own run are computed by its folder, and not by one with other weights."""
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    weights = load_file(other / "model.safetensors")
    save_file(
        {name: one * 1.5 for name, one in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    samples = tiny_base.parent / "work" / "parity"
    models = [Served(folder, None, samples) for folder in (tiny_base, other, tiny_base)]
    end, second, third = check_engine(Job(), models, threads=1, grace_s=1)
    assert isinstance(end, dict)
    assert end["parity"]["passed"]
    assert isinstance(second, HeliuError)
    assert second.code == "parity_check_failed"
    assert third == end
