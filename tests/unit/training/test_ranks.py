"""A run in two processes on a CPU: the curve of one, a process that dies, a stop, the way on from its checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.training.ranks import launch, launcher
from services.training.spec import parse_spec
from shared.child import Child
from shared.errors import InvalidInput
from shared.frames import Frame
from tests.unit.training import tiny_runs

PACE = {"max_steps": 12, "batch_size": 4, "log_every": 1, "checkpoint_every": 4, "learning_rate": 1e-2}


def _asked(folder: Path, data: Any, base: Path, method: str, **more: Any) -> dict[str, Any]:
    resume = {"resume_from": more.pop("resume_from")} if "resume_from" in more else {}
    wanted = PACE | {"method": method} | more
    return tiny_runs.spec("sft", folder, data, base_dir=str(base), hyperparameters=wanted, **resume)


def _frames(child: Child, asked: dict[str, Any]) -> Iterator[Frame]:
    child.send(asked)
    for frame in child.frames():
        if frame is not None:
            yield frame


def _others(child: Child) -> dict[int, psutil.Process]:
    """The run's own processes under a trainer, by rank."""
    found = psutil.Process(child.pid).children(recursive=True)
    ranks = [p for p in found if "services.training.ranks.rank" in p.cmdline()]
    return {int(p.environ()["RANK"]): p for p in ranks}


@dataclass
class Failure:
    """What the launcher reads of an agent's ProcessFailure."""

    exitcode: int
    timestamp: int


@pytest.mark.parametrize(
    ("failures", "first"),
    [
        ({0: Failure(1, 50), 1: Failure(-signal.SIGKILL, 50)}, 1),
        ({0: Failure(1, 50), 1: Failure(-signal.SIGKILL, 51)}, 1),
        ({0: Failure(1, 50), 1: Failure(-signal.SIGTERM, 50)}, 0),
        ({0: Failure(-signal.SIGTERM, 50), 1: Failure(1, 50), 2: Failure(-signal.SIGKILL, 55)}, 1),
        ({0: Failure(1, 51), 1: Failure(3, 50)}, 1),
    ],
    ids=["seen at once", "seen a second later", "ended by the agent", "ended hard by the agent", "by time"],
)
def test_the_first_failure_is_the_one_that_the_others_followed_from(failures: Any, first: int) -> None:
    assert launcher.first_of(dict(sorted(failures.items())))[0] == first


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.long)])
def test_two_processes_have_the_curve_of_one_and_one_goes_on_where_they_died(
    tmp_path: Path, tiny_base: Path, tiny_data: dict[str, list[str]], method: str
) -> None:
    _, frames = tiny_runs.run_here(_asked(tmp_path / "one", tiny_data, tiny_base, method, processes=1))
    expected = tiny_runs.losses(frames)
    two = _asked(tmp_path / "two", tiny_data, tiny_base, method, processes=2)
    child = Child("services.training.child")
    heard: list[Frame] = []
    left: list[psutil.Process] = []
    try:
        for frame in _frames(child, two):
            heard.append(frame)
            if frame["type"] == "checkpoint" and not left:
                left = psutil.Process(child.pid).children(recursive=True)
                os.kill(_others(child)[1].pid, signal.SIGKILL)
    finally:
        child.close()
    last = heard[-1]
    assert (last["type"], last["code"], last["retryable"]) == ("error", "process_died", True)
    assert "process 2 of 2 died: killed by SIGKILL" in last["message"]
    assert len(left) >= 3
    assert psutil.wait_procs(left, timeout=20)[1] == []

    sharded = tiny_runs.losses(heard)
    assert len(sharded) >= 4
    for step, loss in sharded.items():
        assert loss == pytest.approx(expected[step], rel=1e-4)
    (made,) = [f for f in heard if f["type"] == "checkpoint"][:1]
    again = _asked(tmp_path / "again", tiny_data, tiny_base, method, processes=1, resume_from=made["path"])
    _, after = tiny_runs.run_here(again)
    rest = tiny_runs.losses(after)
    assert list(rest) == list(range(5, 13))
    assert list(rest.values()) == pytest.approx([expected[step] for step in rest], rel=1e-3)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_stop_together_and_go_on(
    tmp_path: Path, tiny_base: Path, tiny_data: dict[str, list[str]], method: str
) -> None:
    _, frames = tiny_runs.run_here(_asked(tmp_path / "one", tiny_data, tiny_base, method, processes=1))
    expected = tiny_runs.losses(frames)
    halves = _asked(tmp_path / "two", tiny_data, tiny_base, method, processes=2)
    child = Child("services.training.child")
    heard: list[Frame] = []
    try:
        for frame in _frames(child, halves):
            heard.append(frame)
            if frame["type"] == "metrics" and frame["step"] == 5:
                child.send({"op": "stop", "reason": "pause"})
    finally:
        child.close()
    assert heard[-1]["type"] == "stopped"
    made = [f for f in heard if f["type"] == "checkpoint"][-1]
    assert made["step"] == heard[-1]["step"] >= 5
    assert made["metrics"]["total_steps"] == 12
    child = Child("services.training.child")
    try:
        rest = list(_frames(child, halves | {"resume_from": made["path"]}))
    finally:
        child.close()
    assert rest[-1]["type"] == "result"
    curve = tiny_runs.losses(heard) | tiny_runs.losses(rest)
    assert list(curve) == list(expected)
    assert list(curve.values()) == pytest.approx(list(expected.values()), rel=1e-3)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_trainer_leaves_no_process_behind(
    tmp_path: Path, tiny_base: Path, tiny_data: dict[str, list[str]]
) -> None:
    endless = {"max_steps": 5_000, "checkpoint_every": 5_000}
    child = Child("services.training.child")
    left: list[psutil.Process] = []
    try:
        for frame in _frames(child, _asked(tmp_path, tiny_data, tiny_base, "lora", processes=2, **endless)):
            if frame["type"] == "metrics":
                left = psutil.Process(child.pid).children(recursive=True)
                child.kill()
    finally:
        child.close()
    assert len(left) >= 3
    assert psutil.wait_procs(left, timeout=60)[1] == []


def test_processes_that_cannot_be_are_refused(
    tmp_path: Path, tiny_base: Path, tiny_data: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def processes(**more: Any) -> int:
        return launch._processes(parse_spec(_asked(tmp_path, tiny_data, tiny_base, "lora", **more)))

    assert processes() == 1
    assert processes(processes=3) == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes(processes="auto") == 4
    assert processes(processes="auto", batch_size=6) == 3
    assert processes(quantization="nf4") == 1
    with pytest.raises(InvalidInput, match="this worker has 4 GPUs") as caught:
        processes(processes=8)
    assert caught.value.param == "hyperparameters.processes"
