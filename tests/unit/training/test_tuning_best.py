"""Fine-tuning that ends early and keeps its best weights: whose they are, resumed bitwise, told, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services.inference.parity import compare
from shared.errors import InvalidInput
from tests.unit.training import tiny_runs

PACE = {
    "n_epochs": 40,
    "batch_size": 8,
    "log_every": 1,
    "checkpoint_every": 1000,
    "lora_r": 4,
    "learning_rate": 3e-2,
    "early_stopping_patience": 3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Of held-out questions the answers are those of others: what is learned for sure is wrong there."""
    folder = tmp_path_factory.mktemp("contrary")
    held_out = tiny_runs.conversations(12, 4)
    words = list(tiny_runs.ANSWERS)
    for row in held_out:
        question, answer = row["messages"]
        word = next(w for w in words if w in question["content"])
        answer["content"] = tiny_runs.ANSWERS[words[words.index(word) - 1]]
    return {
        "train": tiny_runs.write(folder / "train.jsonl", tiny_runs.conversations(24, 3)),
        "validation": tiny_runs.write(folder / "validation.jsonl", held_out),
    }


def _asked(folder: Path, data: Any, base: Path, **more: Any) -> dict[str, Any]:
    resume = {"resume_from": more.pop("resume_from")} if "resume_from" in more else {}
    return tiny_runs.spec("sft", folder, data, base_dir=str(base), hyperparameters=PACE | more, **resume)


def _looks(frames: list[dict[str, Any]]) -> dict[int, float]:
    told = [f for f in frames if f["type"] == "metrics" and "valid_loss" in f["data"]]
    return {f["step"]: f["data"]["valid_loss"] for f in told}


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, data: dict[str, list[str]]
) -> tuple[Path, Any, list[Any]]:
    folder = tmp_path_factory.mktemp("ended")
    return folder, *tiny_runs.run_here(_asked(folder, data, tiny_base))


def test_a_run_ends_when_looks_get_no_better_and_keeps_the_best_weights(
    ended: tuple[Path, Any, list[Any]], tiny_base: Path
) -> None:
    folder, result, frames = ended
    looks = _looks(frames)
    best = min(looks, key=lambda step: looks[step])
    steps = result.data["steps"]
    assert list(looks)[-4:] == [best, best + 3, best + 6, best + 9]
    assert (result.data["best_step"], steps, result.data["planned_steps"]) == (best, best + 9, 120)
    assert result.data["valid_loss"] == result.data["full_valid_loss"] == looks[best]
    assert result.data["epochs"] == pytest.approx(steps / 3)
    (why,) = [f for f in frames if f["type"] == "event" and "ends early" in f["message"]]
    assert why["data"] == {"step": steps, "best_step": best, "planned_steps": 120}
    assert f"at step {steps} of 120" in why["message"]
    # The losses of all steps are told, and the last frames say how long the run was.
    assert list(tiny_runs.losses(frames)) == list(range(1, steps + 1))
    last = [f for f in frames if f["type"] == "progress"][-1]
    assert (last["step"], last["total_steps"]) == (steps, steps)
    # An adapter's best weights are the adapter alone, and what is served is computed by them.
    kept = load_file(folder / "work" / "best.safetensors")
    served = load_file(folder / "out" / "adapter_model.safetensors")
    assert {name.replace(".default.", "."): one for name, one in kept.items()}.keys() == served.keys()
    assert all(torch.equal(kept[name.replace(".weight", ".default.weight")], served[name]) for name in served)
    assert compare(folder / "out", tiny_base, folder / "work" / "parity")["parity"]["passed"]


@pytest.mark.parametrize("behind", ["the best look", "the end of patience"])
def test_stopped_and_resumed_it_keeps_the_same_weights(
    ended: tuple[Path, Any, list[Any]],
    tmp_path: Path,
    tiny_base: Path,
    data: dict[str, list[str]],
    behind: str,
) -> None:
    """The second stop comes just where the last look is due: the run that goes on looks, and has no step to make."""
    _, whole, frames = ended
    steps, best = whole.data["steps"], whole.data["best_step"]
    at = best + 1 if behind == "the best look" else steps - 1
    stopped, before = tiny_runs.stop_at(_asked(tmp_path, data, tiny_base), at, "pause")
    assert stopped.step == at + 1
    made = [f["path"] for f in before if f["type"] == "checkpoint"][-1]
    again = tmp_path / "again"
    result, after = tiny_runs.run_here(_asked(again, data, tiny_base, resume_from=made))
    assert tiny_runs.losses(before) | tiny_runs.losses(after) == tiny_runs.losses(frames)
    assert _looks(before) | _looks(after) == _looks(frames)
    for name in ("steps", "best_step", "planned_steps", "valid_loss"):
        assert result.data[name] == whole.data[name]
    mine, theirs = (load_file(p / "adapter_model.safetensors") for p in (again / "out", ended[0] / "out"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_the_last_weights_are_kept_where_nobody_wants_the_best(
    tmp_path: Path, tiny_base: Path, data: dict[str, list[str]]
) -> None:
    wanted = {"keep_best": False, "early_stopping_patience": None, "method": "full", "n_epochs": 3}
    wanted |= {"lora_r": "auto", "learning_rate": 1e-3}
    result, frames = tiny_runs.run_here(_asked(tmp_path, data, tiny_base, **wanted))
    assert "best_step" not in result.data
    assert not (tmp_path / "work" / "best.safetensors").exists()
    looks = _looks(frames)
    assert result.data["valid_loss"] == looks[max(looks)]


@pytest.mark.parametrize(
    ("kind", "wanted", "name"),
    [
        ("sft", {}, "early_stopping_patience"),
        ("sft", {"early_stopping_patience": None, "keep_best": True}, "keep_best"),
        ("dpo", {}, "early_stopping_patience"),
    ],
)
def test_what_is_judged_by_held_out_rows_is_refused_without_them(
    tmp_path: Path, tiny_base: Path, kind: str, wanted: dict[str, Any], name: str
) -> None:
    rows = tiny_runs.conversations(8, 3) if kind == "sft" else tiny_runs.pairs(8, 3)
    asked = _asked(tmp_path, {"train": tiny_runs.write(tmp_path / "few.jsonl", rows)}, tiny_base, **wanted)
    with pytest.raises(InvalidInput, match=f"{name} is judged by held-out rows, and the job has none") as why:
        tiny_runs.run_here(asked | {"kind": kind})
    assert why.value.param == f"hyperparameters.{name}"
