"""Encoders trained by contrast: what they learn, what is refused, and that a stopped run goes on where it was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy.samples import paraphrases
from services.inference.engine.encoder import Encoder
from services.training.encoders.measure import Rows, drawn, losses, rank
from services.training.encoders.model import hanzi, new_tokenizer
from services.training.encoders.run import run as train
from services.training.run import Run, Stopped
from services.training.spec import parse_spec
from shared.contracts.searches import final_value, metrics_of
from shared.errors import InvalidInput

GROUPS = [
    ["退款", "退钱", "返还货款"],
    ["发货", "寄出", "送出来"],
    ["发票", "开票", "税单"],
    ["密码", "口令", "暗号"],
    ["请假", "告假", "休息"],
    ["refund", "money back", "reimburse"],
]
SMALL = {"hidden_size": 32, "heads": 2, "max_length": 32, "batch_size": 12, "dropout": 0.1, "n_epochs": 40}


def spec_of(folder: Path, name: str = "run", **changes: Any) -> Any:
    rows = [{"text": text, "label": str(n)} for n, group in enumerate(GROUPS) for text in group]
    files = {}
    for split, kept in (("train", rows), ("validation", rows[::3])):
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return parse_spec(
        {
            "kind": "encoder",
            "workdir": str(folder / name / "work"),
            "output_dir": str(folder / name / "output"),
            "data": {split: [str(path)] for split, path in files.items()},
            "hyperparameters": SMALL,
            "threads": 1,
            **changes,
        }
    )


def test_texts_of_one_label_come_near_each_other_and_the_engine_serves_them(tmp_path: Path) -> None:
    told = train(spec_of(tmp_path), Run(lambda _: None))
    assert told.data["held_out"]["recall_at_1"] == 1.0
    assert told.data["parity"]["max_abs_difference"] < 1e-5
    encoder = Encoder.load(told.output_dir, dtype="float32", device="cpu")
    first, like, other = (encoder.encode([encoder.tokens(text)])[0] for text in ("退款", "返还货款", "密码"))
    assert float(first @ like) > float(first @ other) + 0.3
    assert encoder.width == 32


def test_questions_in_words_that_were_never_trained_are_found_better_than_without_training(
    tmp_path: Path,
) -> None:
    material = paraphrases.load()
    spec = spec_of(tmp_path, hyperparameters=SMALL | {"batch_size": 64, "max_steps": 60, "n_epochs": 10})
    for name, rows in (
        ("train", paraphrases.training_rows(material, 0, each=8, composed=0)),
        ("validation", paraphrases.validation_rows(material, 0)),
    ):
        lines = (json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    told = train(spec, Run(lambda _: None)).data
    assert told["held_out"]["mrr"] > told["baseline"]["mrr"] + 0.05, told
    assert told["held_out"]["recall_at_1"] > told["baseline"]["recall_at_1"], told


def test_held_out_texts_are_looked_at_on_the_way_so_that_a_search_can_give_up(tmp_path: Path) -> None:
    frames: list[dict[str, Any]] = []
    result = train(spec_of(tmp_path), Run(frames.append))
    looks = {f["step"]: f["data"] for f in frames if f["type"] == "metrics" and "valid_loss" in f["data"]}
    steps = result.data["steps"]
    assert len(looks) > 10
    assert max(looks) == steps
    for step, data in looks.items():
        assert {"valid_recall_at_1", "valid_mrr", "train_loss", "total_steps"} <= data.keys()
        assert data["valid_loss"] >= looks[result.data["best_step"]]["valid_loss"], step
    # What is looked at are all rows here, so the figures of the kept weights are those of their look.
    kept = looks[result.data["best_step"]]
    assert result.data["held_out"]["loss"] == pytest.approx(kept["valid_loss"], rel=1e-4)
    assert result.data["held_out"]["recall_at_1"] == kept["valid_recall_at_1"]
    for metric in metrics_of("training.train_encoder", {}):
        assert final_value(metric, result.data, None) is not None


def test_a_text_is_lost_on_labels_that_are_nearer_than_its_own() -> None:
    likeness = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = losses(likeness, torch.tensor([0, 1, 1]), torch.tensor([1, 0]))
    odds = math.exp(2) / (math.exp(1) + 1)
    assert found.tolist() == pytest.approx([math.log(1 + odds), math.log(3)], rel=1e-5)
    assert [
        rank(row, torch.tensor([0, 1, 1]), label) for row, label in zip(likeness, (1, 0), strict=True)
    ] == [
        2,
        1,
    ]


def test_of_many_texts_a_share_is_looked_at_with_every_label_that_is_asked_for() -> None:
    rows = Rows([[n] for n in range(1000)], [*(n % 9 for n in range(999)), 77])
    assert drawn(rows, 1000, 1) == list(range(1000))
    few = drawn(rows, 50, 1, needed=[3, 77])
    assert few == drawn(rows, 50, 1, needed=[3, 77]) == sorted(set(few)) != drawn(rows, 50, 2, needed=[3, 77])
    assert len(few) in (50, 51)
    assert {3, 77} <= set(rows.only(few).labels)
    # Not the first ones, which may be of one sort.
    assert max(drawn(rows, 50, 1)) > 500


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(spec_of(tmp_path, "whole"), Run(lambda _: None))
    frames: list[dict[str, Any]] = []
    run = Run(frames.append)

    def stop_in_the_middle(frame: dict[str, Any]) -> None:
        frames.append(frame)
        if frame["type"] == "progress" and frame["step"] >= 20:
            run.request_stop("drain")

    run._emit = stop_in_the_middle
    with pytest.raises(Stopped):
        train(spec_of(tmp_path, "part"), run)
    (kept,) = [frame["path"] for frame in frames if frame["type"] == "checkpoint"][-1:]
    rest = train(spec_of(tmp_path, "rest", resume_from=kept), Run(lambda _: None))
    assert rest.data["train_loss"] == whole.data["train_loss"]
    one, other = (Path(done.output_dir) / "model.safetensors" for done in (whole, rest))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "x"), ("b", "x")], "2 texts of 1 labels"),
        ([("a", "x"), ("b", "y")], "2 texts of 2 labels"),
    ],
)
def test_rows_that_nothing_can_be_learned_from_are_refused(
    tmp_path: Path, rows: list[tuple[str, str]], said: str
) -> None:
    spec = spec_of(tmp_path)
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    (tmp_path / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    with pytest.raises(InvalidInput, match=said):
        train(spec, Run(lambda _: None))


def test_heads_must_share_the_width_evenly(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="multiple of heads") as refused:
        train(spec_of(tmp_path, hyperparameters={"hidden_size": 33, "heads": 2}), Run(lambda _: None))
    assert refused.value.param == "hyperparameters.hidden_size"


def test_every_character_has_a_token_of_its_own(tmp_path: Path) -> None:
    tokenizer = new_tokenizer(["Ａb 12"], 64)
    assert tokenizer.tokenize("退款 AB12。") == ["退", "款", "a", "##b", "##1", "##2", "[UNK]"]
    assert len(hanzi()) == 6763
    assert torch.tensor(tokenizer("鑫")["input_ids"]).shape == (3,)
