"""A run in two processes on a CPU: the curve of one, a process that dies, a stop, the way on from its checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from services.inference.parity import compare
from services.training.ranks import launch, launcher
from services.training.spec import parse_spec
from shared.child import Child
from shared.errors import InvalidInput
from shared.frames import Frame, read_frames
from tests.unit.training import tiny_runs

PACE = {"max_steps": 12, "batch_size": 4, "log_every": 1, "checkpoint_every": 4, "learning_rate": 1e-2}


def _asked(
    folder: Path, data: Any, base: Path, method: str, kind: str = "sft", **more: Any
) -> dict[str, Any]:
    resume = {"resume_from": more.pop("resume_from")} if "resume_from" in more else {}
    wanted = PACE | {"method": method} | more
    return tiny_runs.spec(kind, folder, data, base_dir=str(base), hyperparameters=wanted, **resume)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_data: dict[str, list[str]]) -> dict[str, Any]:
    """Of each kind of run."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = {
        "train": tiny_runs.write(folder / "train.jsonl", tiny_runs.pairs(40, 7)),
        "validation": tiny_runs.write(folder / "validation.jsonl", tiny_runs.pairs(12, 8, turned=True)),
    }
    return {"sft": tiny_data, "dpo": pairs}


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
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("sft", "lora"),
        ("dpo", "lora"),
        pytest.param("sft", "full", marks=pytest.mark.long),
        pytest.param("dpo", "full", marks=pytest.mark.long),
    ],
)
def test_two_processes_have_the_curve_of_one_and_one_goes_on_where_they_died(
    tmp_path: Path, tiny_base: Path, data: dict[str, Any], kind: str, method: str
) -> None:
    rate = 1e-2 if method == "lora" else 1e-3
    asked = partial(_asked, data=data[kind], base=tiny_base, method=method, kind=kind, learning_rate=rate)
    _, frames = tiny_runs.run_here(asked(tmp_path / "one", processes=1))
    expected = tiny_runs.losses(frames)
    two = asked(tmp_path / "two", processes=2)
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
        assert loss == pytest.approx(expected[step], rel=1e-4, abs=1e-5)
    (made,) = [f for f in heard if f["type"] == "checkpoint"][:1]
    again = asked(tmp_path / "again", processes=1, resume_from=made["path"])
    _, after = tiny_runs.run_here(again)
    rest = tiny_runs.losses(after)
    assert list(rest) == list(range(5, 13))
    assert list(rest.values()) == pytest.approx([expected[step] for step in rest], rel=1e-3)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_keep_the_best_weights_as_one_does(
    tmp_path: Path, tiny_base: Path, data: dict[str, Any], method: str
) -> None:
    """What is held out is the wrong way round, so that the first look is the best."""
    wanted = {"kind": "dpo", "early_stopping_patience": 2, "checkpoint_every": 3}
    wanted |= {"learning_rate": 1e-2 if method == "lora" else 1e-3}
    one, _ = tiny_runs.run_here(_asked(tmp_path / "one", data["dpo"], tiny_base, method, **wanted))
    child = Child("services.training.child")
    try:
        two = _asked(tmp_path / "two", data["dpo"], tiny_base, method, processes=2, **wanted)
        heard = list(_frames(child, two))
    finally:
        child.close()
    result = heard[-1]
    assert result["type"] == "result"
    ends = {name: one.data[name] for name in ("steps", "best_step", "planned_steps")}
    assert ends == {"steps": 9, "best_step": 3, "planned_steps": 12}
    assert {name: result["data"][name] for name in ends} == ends
    for name in ("preference_accuracy", "reward_margin"):
        assert result["data"]["held_out"][name] == pytest.approx(one.data["held_out"][name], abs=1e-4)
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    mine, theirs = (load_file(tmp_path / folder / "out" / name) for folder in ("two", "one"))
    assert all(torch.allclose(mine[key], theirs[key], atol=1e-4) for key in theirs)
    (last,) = [f for f in heard if f["type"] == "progress"][-1:]
    assert (last["step"], last["total_steps"]) == (9, 9)
    base = tiny_base if method == "lora" else None
    assert compare(tmp_path / "two" / "out", base, tmp_path / "two" / "work" / "parity")["parity"]["passed"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.long)])
def test_a_second_process_never_holds_the_whole_model(
    tmp_path: Path, tiny_base: Path, tiny_data: dict[str, list[str]], method: str
) -> None:
    wide = _widened(tiny_base, tmp_path / "base")
    size = (wide / "model.safetensors").stat().st_size
    pace = {"max_steps": 1, "batch_size": 2, "keep_best": False, "learning_rate": 1e-5}
    _, frames = tiny_runs.run_here(_asked(tmp_path / "one", tiny_data, wide, method, processes=1, **pace))
    child = Child("services.training.child")
    try:
        heard = list(_frames(child, _asked(tmp_path / "two", tiny_data, wide, method, processes=2, **pace)))
    finally:
        child.close()
    assert heard[-1]["type"] == "result"
    # What the run took is what both of its processes did.
    each = heard[-1]["peak_memory_by_process"]
    assert (len(each), sum(each)) == (2, heard[-1]["peak_memory_bytes"])
    assert min(each) > 100 * 2**20
    assert tiny_runs.losses(heard) == pytest.approx(tiny_runs.losses(frames), rel=1e-4)
    with (tmp_path / "two" / "work" / "frames-1").open("rb") as said:
        second = list(read_frames(said))
    loaded = [_loaded(one) for one in (heard, second)]
    assert loaded[0]["weights_bytes"] > 0.9 * size
    assert loaded[1]["weights_bytes"] == 0
    # By what the kernel counts, too, before the first step: the first has had the whole and its share, the other one
    # tensor after the other and its share.
    took = [_shared_out(one)["peak_resident_bytes"] for one in (heard, second)]
    assert took[0] - took[1] > 0.5 * size


def _widened(base: Path, folder: Path) -> Path:
    """A model of some 40 MB that has the tokenizer of `base`, and weights by chance."""
    config = AutoConfig.from_pretrained(base)
    config.update({"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 10})
    config.update({"head_dim": 32, "num_attention_heads": 8, "num_key_value_heads": 8})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def _shared_out(frames: list[Frame]) -> dict[str, Any]:
    (found,) = [f["data"] for f in frames if f["type"] == "event" and "shared out" in f["message"]]
    return found


def _loaded(frames: list[Frame]) -> dict[str, Any]:
    (found,) = [f["attributes"] for f in frames if f["type"] == "span" and f["name"] == "load"]
    return found


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
