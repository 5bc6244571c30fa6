"""The engine's process as a training worker asks it: what it finds, what it refuses, and how it is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def test_a_model_that_was_changed_fails_with_the_code_of_the_check(tmp_path: Path, tiny_base: Path) -> None:
    samples, job = tiny_base.parent / "work" / "parity", Job()
    told: dict[str, Any] = json.loads((samples / "samples.json").read_text(encoding="utf-8"))
    (tmp_path / "logits.safetensors").write_bytes((samples / "logits.safetensors").read_bytes())
    (tmp_path / "samples.json").write_text(json.dumps(told | {"template": "0" * 64}), encoding="utf-8")
    with pytest.raises(HeliuError, match="the chat template") as caught:
        check_engine(job, tiny_base, None, tmp_path, threads=1)
    assert (caught.value.code, caught.value.retryable) == ("parity_check_failed", False)
    assert job.touched


def test_a_job_that_shall_stop_does_not_wait_for_the_engine(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(Stopped) as caught:
        check_engine(Job(Stop.CANCEL), tiny_base, None, tmp_path, threads=1)
    assert caught.value.reason is Stop.CANCEL


def test_an_engine_that_dies_is_a_crash_and_not_a_mismatch(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ChildCrashed):
        check_engine(Job(), tiny_base, None, tmp_path, threads=1, module="shared.errors")
