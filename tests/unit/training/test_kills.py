"""Runs that are killed at seeded moments (a step, its middle, each stage of a checkpoint) and resumed each time: the
loss curve is that of a run that nobody disturbed, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.training import tiny_runs
from tests.unit.training.faults import CHECKPOINT, STEP, Attempt, attempt, faults, survive
from tests.unit.training.head_samples import dialogues, write

KILLS = 20
# One at each kind of moment.
EACH = len(STEP) + len(CHECKPOINT)
PACE = {"batch_size": 4, "log_every": 1, "checkpoint_every": 4}


def lives(
    asked: dict[str, Any], folder: Path, *, kills: int, seed: int, weights: str
) -> tuple[Attempt, list[Attempt]]:
    """(the run that nobody disturbed, the lives of the other that were killed)."""
    whole = attempt({**asked, "output_dir": str(folder / "whole")})
    killed, last = survive(
        {**asked, "output_dir": str(folder / "last")}, faults(seed, kills, steps=6), folder
    )
    assert len(killed) == kills
    expected = whole.curve()
    told: dict[int, dict[str, float]] = {}
    for life in [*killed, last]:
        for step, values in life.curve().items():
            assert values.items() <= expected[step].items(), f"seed {seed}, step {step}"
            told.setdefault(step, {}).update(values)
    assert told == expected
    assert sorted(told) == list(range(1, max(expected) + 1))
    same = [(Path(one.result.output_dir) / weights).read_bytes() for one in (whole, last)]
    assert same[0] == same[1]
    assert last.result.trained_tokens == whole.result.trained_tokens
    return whole, killed


def test_pretraining_survives_20_kills(tmp_path: Path, tiny_data: dict[str, list[str]]) -> None:
    asked = tiny_runs.spec(
        "pretrain", tmp_path, tiny_data, hyperparameters=tiny_runs.SHAPE | PACE | {"max_steps": 120}
    )
    lives(asked, tmp_path, kills=KILLS, seed=1, weights="model.safetensors")


@pytest.mark.parametrize("kills", [EACH, pytest.param(KILLS, marks=pytest.mark.long)])
def test_a_head_survives_kills(tmp_path: Path, kills: int) -> None:
    data = write(tmp_path / "data", "single_label", dialogues(each=8))
    asked = {
        "kind": "head",
        "seed": 3,
        "choice": {"head": "single_label", "method": "lstm", "loss": "auto"},
        "workdir": str(tmp_path / "work"),
        "data": {"train": [str(data)]},
        "threads": 1,
        "hyperparameters": PACE | {"hidden_size": 16, "max_steps": 6 * kills, "dropout": 0.3},
    }
    lives(asked, tmp_path, kills=kills, seed=2, weights="head.safetensors")


def test_a_run_that_ends_early_survives_kills_with_its_best_weights(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "single_label", dialogues(each=8))
    # At this rate it unlearns what it knew after a few epochs of seven steps.
    wanted = {"hidden_size": 16, "learning_rate": 0.05, "dropout": 0.3, "batch_size": 8}
    asked = {
        "kind": "head",
        "seed": 3,
        "choice": {"head": "single_label", "method": "lstm", "loss": "auto"},
        "workdir": str(tmp_path / "work"),
        "data": {"train": [str(data)]},
        "threads": 1,
        "hyperparameters": PACE | wanted | {"max_steps": 200, "early_stopping_patience": 4},
    }
    whole, killed = lives(asked, tmp_path, kills=EACH, seed=2, weights="head.safetensors")
    told = whole.result.data
    assert told["best_step"] < told["steps"] < told["planned_steps"] == 200
    # Some life began behind the best step, and had its weights from a checkpoint alone.
    known = [Path(life.checkpoint) for life in killed if life.checkpoint]
    assert max(int(path.name.split("-")[1]) for path in known) > told["best_step"]


@pytest.mark.parametrize(
    ("kills", "method"),
    [
        (EACH, "lora"),
        pytest.param(KILLS, "lora", marks=pytest.mark.long),
        pytest.param(KILLS, "full", marks=pytest.mark.long),
    ],
)
def test_fine_tuning_survives_kills(
    tmp_path: Path, tiny_data: dict[str, list[str]], tiny_base: Path, kills: int, method: str
) -> None:
    wanted = PACE | {"method": method, "max_steps": 6 * kills}
    wanted |= {"lora_r": 4, "lora_dropout": 0.1} if method == "lora" else {}
    asked = tiny_runs.spec("sft", tmp_path, tiny_data, base_dir=str(tiny_base), hyperparameters=wanted)
    weights = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    lives(asked, tmp_path, kills=kills, seed=3, weights=weights)


@pytest.mark.parametrize("kind", ["pretrain", "sft", "head"])
def test_a_pause_never_costs_a_look_at_held_out_rows(
    tmp_path: Path, tiny_data: dict[str, list[str]], tiny_base: Path, kind: str
) -> None:
    wanted = PACE | {"max_steps": 60}
    asked = {
        "pretrain": {"hyperparameters": tiny_runs.SHAPE | wanted},
        "sft": {"base_dir": str(tiny_base), "hyperparameters": wanted | {"method": "lora", "lora_r": 4}},
        "head": {
            "choice": {"head": "single_label", "method": "lstm", "loss": "auto"},
            "data": {"train": [str(write(tmp_path / "data", "single_label", dialogues(each=8)))]},
            "hyperparameters": wanted | {"hidden_size": 16},
        },
    }[kind]
    spec = tiny_runs.spec(kind, tmp_path, tiny_data) | asked
    whole = attempt(
        spec | {name: str(tmp_path / "whole" / name) for name in ("workdir", "output_dir")}
    ).curve()
    look = min(step for step, values in whole.items() if "valid_loss" in values)
    assert look < max(whole)
    # TRL's loop hears of it after the next step, and stops before the look there; ours in the midst of the look.
    told = Attempt(tiny_runs.stop_at(spec, look - 1 if kind == "sft" else look, "pause")[1])
    joined = told.curve()
    assert max(joined) == look
    assert "valid_loss" not in joined[look]
    for step, values in attempt(spec | {"resume_from": told.checkpoint}).curve().items():
        joined.setdefault(step, {}).update(values)
    assert joined == whole
