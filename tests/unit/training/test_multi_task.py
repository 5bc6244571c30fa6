"""Tasks on one trunk: how they are mixed, that each beats its baseline, resumes bitwise, and is served by itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.engine.head import Head
from services.training.multitask import run as multi_task
from services.training.multitask.mix import rows_of_tasks, shares, steps_of
from services.training.run import Result, Run
from services.training.spec import parse_spec
from shared.contracts.multi_task import MultiTaskParameters, TaskChoice, check_tasks
from shared.errors import InvalidInput
from shared.frames import Frame
from tests.unit.inference.tiny_encoders import save_encoder
from tests.unit.training.child_runs import kill_after_a_checkpoint
from tests.unit.training.head_samples import dialogues, write
from tests.unit.training.test_training_heads import minilm

MINILM = Path(minilm())
PARAMETERS = {"learning_rate": 1e-3, "batch_size": 8, "max_steps": 30, "lora_r": 4, "max_length": 32}


def spec_of(folder: Path, base: Path, **more: Any) -> dict[str, Any]:
    method = more.pop("method", "full")
    heads = {"intent": "single_label", "answer": "rank_pairwise", "topics": "multi_label"}
    each = {"intent": 24, "answer": 3, "topics": 12}
    parts = []
    for name, head in heads.items():
        # A trunk that reads English alone is asked in English.
        rows = dialogues(each=each[name], languages=("en",) if base == MINILM else ("zh", "en"))
        data = write(folder / name, head, rows)
        parts.append(
            {
                "name": name,
                "choice": {"head": head, "method": method},
                "data": {"train": [str(data)]},
                "weight": 2.0 if name == "intent" else 1.0,
            }
        )
    return {
        "kind": "multi_task",
        "seed": 3,
        "method": method,
        "parts": parts,
        "workdir": str(folder / "work"),
        "output_dir": str(folder / "out"),
        "data": {},
        "base_dir": str(base),
        "threads": 1,
        "hyperparameters": PARAMETERS,
        **more,
    }


def run_here(spec: dict[str, Any]) -> tuple[Result, list[Frame]]:
    frames: list[Frame] = []
    return multi_task.run(parse_spec(spec), Run(frames.append)), frames


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("trunk") / "encoder")


def test_each_task_beats_its_baseline_and_is_served_on_the_same_trunk(tmp_path: Path) -> None:
    result, frames = run_here(spec_of(tmp_path, MINILM, method="lora"))
    tasks = result.data["tasks"]
    for name, figure in (("intent", "accuracy"), ("answer", "ndcg"), ("topics", "micro_f1")):
        assert tasks[name]["held_out"][figure] > tasks[name]["baseline"][figure], (name, tasks[name])
    assert sum(task["steps"] for task in tasks.values()) == result.data["steps"]
    told = [frame["data"] for frame in frames if frame["type"] == "metrics"]
    assert {"train_loss", "valid_loss", "intent/valid_accuracy", "topics/valid_micro_f1"} <= {
        n for d in told for n in d
    }
    weights = set()
    for name, task in tasks.items():
        folder = Path(result.output_dir) / name
        served = Head.load(str(folder), dtype="float32", device="cpu")
        assert (served.folder.head, list(served.folder.labels)) == (task["head"], task["labels"])
        weights.add(hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())
    # What an artifact store keeps once.
    assert len(weights) == 1


def test_a_run_that_was_killed_resumes_with_the_same_losses_and_weights(tmp_path: Path, trunk: Path) -> None:
    hyperparameters = PARAMETERS | {"max_steps": 24, "log_every": 1, "checkpoint_every": 6}
    parameters: dict[str, Any] = {"method": "lora", "hyperparameters": hyperparameters}
    whole, frames = run_here(spec_of(tmp_path / "a", trunk, **parameters))
    spec = spec_of(tmp_path / "b", trunk, **parameters)
    checkpoint, _ = kill_after_a_checkpoint(spec)
    resumed, after = run_here(spec | {"resume_from": str(checkpoint), "workdir": str(tmp_path / "c")})

    def losses(found: list[Frame]) -> dict[int, float]:
        return {f["step"]: f["data"]["train_loss"] for f in found if f["type"] == "metrics"}

    assert 1 < min(losses(after)) <= 24
    assert losses(after).items() <= losses(frames).items()
    for name in ("intent/head.safetensors", "topics/head.safetensors", "answer/model.safetensors"):
        assert (Path(resumed.output_dir) / name).read_bytes() == (Path(whole.output_dir) / name).read_bytes()
    changed = {**spec, "parts": [{**part, "weight": 3.0} for part in spec["parts"]]}
    with pytest.raises(InvalidInput, match="another run"):
        run_here(changed | {"resume_from": str(checkpoint), "workdir": str(tmp_path / "d")})


def test_rows_at_fault_are_named_with_their_task(tmp_path: Path, trunk: Path) -> None:
    spec = spec_of(tmp_path, trunk)
    spec["parts"][1]["choice"]["head"] = "multi_label"
    with pytest.raises(InvalidInput, match="task 'answer': line 1: neither a `text`") as refused:
        run_here(spec)
    assert (refused.value.code, refused.value.param) == (
        "invalid_training_file",
        "tasks.answer.training_file",
    )


def test_a_temperature_moves_shares_from_proportion_to_evenness() -> None:
    assert shares([900, 100], 1).tolist() == pytest.approx([0.9, 0.1])
    assert shares([900, 100], 2).tolist() == pytest.approx([0.75, 0.25])
    assert shares([900, 100], 1000).tolist() == pytest.approx([0.5, 0.5], abs=1e-3)


@given(
    st.lists(st.integers(1, 500), min_size=2, max_size=5),
    st.floats(1, 50),
    st.integers(5, 200),
    st.integers(1, 9),
)
def test_every_step_has_a_whole_batch_and_every_task_its_share(
    sizes: list[int], temperature: float, total: int, batch_size: int
) -> None:
    tasks, places = steps_of(sizes, temperature, total, seed=5)
    counts = np.bincount(tasks, minlength=len(sizes))
    assert counts.sum() == total
    assert (counts >= 1).all()
    assert (abs(counts - (1 + shares(sizes, temperature) * (total - len(sizes)))) < 1).all()
    for task in range(len(sizes)):
        assert places[tasks == task].tolist() == list(range(counts[task]))
    rows = rows_of_tasks(
        sizes, tasks, batch_size, lambda task, epochs: np.tile(np.arange(sizes[task]), epochs)
    )
    assert [len(own) for own in rows] == (counts * batch_size).tolist()


@pytest.mark.parametrize(
    ("tasks", "given_", "said", "param"),
    [
        ([{"name": "a"}, {"name": "a"}], {}, "two tasks are called 'a'", "tasks[1].name"),
        ([{"name": "a"}, {"name": "b" * 32}], {}, "64 at most", "tasks[1].name"),
        ([{"name": "a"}, {"name": "b", "loss": "hinge"}], {}, "single_label head has", "tasks[1].loss"),
        (
            [{"name": "a", "settings": {"margin": 1}}, {"name": "b"}],
            {},
            "margin goes with the loss 'hinge'",
            "tasks[0].settings.margin",
        ),
        ([{"name": "a"}, {"name": "b"}], {"lora_r": 2}, "goes with the method", "hyperparameters.lora_r"),
    ],
)
def test_what_does_not_go_together_is_refused_at_its_place(
    tasks: list[dict[str, Any]], given_: dict[str, Any], said: str, param: str
) -> None:
    chosen = [TaskChoice(**{"head": "single_label", **task}) for task in tasks]
    with pytest.raises(InvalidInput, match=said) as refused:
        check_tasks("n" * 40, "full", chosen, MultiTaskParameters(**given_))
    assert refused.value.param == param


def test_fewer_steps_than_tasks_are_refused() -> None:
    with pytest.raises(InvalidInput, match="fewer than the 3 tasks"):
        steps_of([5, 5, 5], 1, 2, seed=0)
