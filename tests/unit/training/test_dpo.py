"""Tuning on preferences, on a model of a few thousand weights: what is learned, resumed, refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from services.data_governance.versions import SCHEMA
from services.inference.parity import compare
from services.training.dpo.rows import read_both, read_pairs
from shared.errors import InvalidInput
from tests.unit.training import tiny_runs
from tests.unit.training.child_runs import kill_after_a_checkpoint

TUNED = {"max_steps": 24, "batch_size": 8, "lora_r": 4, "learning_rate": 1e-2, "log_every": 1}
PINNED = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("pairs")
    return {
        "train": tiny_runs.write(folder / "train.jsonl", tiny_runs.pairs(60, 7)),
        "validation": tiny_runs.write(folder / "validation.jsonl", tiny_runs.pairs(20, 8)),
    }


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, pairs: dict[str, list[str]]
) -> tuple[Path, Any, list[Any]]:
    folder = tmp_path_factory.mktemp("tuned")
    about = {"base_dir": str(tiny_base), "hyperparameters": TUNED, "decoding": PINNED}
    spec = tiny_runs.spec("dpo", folder, pairs, **about)
    return folder, *tiny_runs.run_here(spec)


def test_the_better_answers_of_held_out_pairs_become_the_likelier_ones(
    tuned: tuple[Path, Any, list[Any]],
) -> None:
    _, result, frames = tuned
    held_out, baseline = result.data["held_out"], result.data["baseline"]
    assert held_out["pairs"] == 20
    assert held_out["preference_accuracy"] >= baseline["preference_accuracy"] + 0.2
    assert held_out["reward_accuracy"] >= 0.8 > baseline["reward_accuracy"] == 0.5
    assert held_out["reward_margin"] > 0
    first, last = (
        [f["data"] for f in frames if f["type"] == "metrics" and "valid_loss" not in f["data"]][n]
        for n in (0, -1)
    )
    # The first step has moved nothing yet, so that the loss is that of a coin.
    assert first["train_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert first["train_reward_margin"] == pytest.approx(0, abs=1e-4)
    assert last["train_loss"] < first["train_loss"]
    assert last["train_reward_accuracy"] > 0.8


def test_the_engine_computes_what_was_tuned(tuned: tuple[Path, Any, list[Any]], tiny_base: Path) -> None:
    folder, result, _ = tuned
    found = compare(Path(result.output_dir), tiny_base, folder / "work" / "parity")
    assert found["parity"]["passed"]
    assert found["parity"]["rows"] >= 4
    assert found["pinned"]["decoding"] == PINNED
    config = json.loads((Path(result.output_dir) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert not (Path(result.output_dir) / "ref").exists()


def test_killed_and_resumed_it_has_the_same_losses_and_weights(
    tmp_path: Path, tiny_base: Path, pairs: dict[str, list[str]], tuned: tuple[Path, Any, list[Any]]
) -> None:
    wanted = TUNED | {"checkpoint_every": 10}
    spec = tiny_runs.spec("dpo", tmp_path, pairs, base_dir=str(tiny_base), hyperparameters=wanted)
    checkpoint, before = kill_after_a_checkpoint(spec)
    result, after = tiny_runs.run_here(spec | {"resume_from": str(checkpoint)})
    whole = tiny_runs.losses(tuned[2])
    assert tiny_runs.losses(before) | tiny_runs.losses(after) == whole
    assert min(tiny_runs.losses(after)) > 1
    mine, theirs = (load_file(Path(r.output_dir) / "adapter_model.safetensors") for r in (result, tuned[1]))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert result.data["held_out"] == tuned[1].data["held_out"]


def test_an_adapter_is_tuned_further_and_measured_by_itself(
    tmp_path: Path, tiny_base: Path, pairs: dict[str, list[str]], tuned: tuple[Path, Any, list[Any]]
) -> None:
    """Paused and resumed on the way: what it is measured by is the adapter before, not what was made of it."""
    wanted = {"max_steps": 6, "batch_size": 8, "learning_rate": 1e-3, "log_every": 1}
    more = {"base_dir": str(tiny_base), "adapter_dir": tuned[1].output_dir, "hyperparameters": wanted}
    whole, frames = tiny_runs.run_here(tiny_runs.spec("dpo", tmp_path / "a", pairs, **more))
    assert tiny_runs.losses(frames)[1] == pytest.approx(0.6931, abs=1e-4)
    assert whole.data["baseline"]["preference_accuracy"] == tuned[1].data["held_out"]["preference_accuracy"]
    spec = tiny_runs.spec("dpo", tmp_path / "b", pairs, **more)
    stopped, before = tiny_runs.stop_at(spec, 3, "pause")
    (made,) = [f for f in before if f["type"] == "checkpoint"]
    result, after = tiny_runs.run_here(spec | {"resume_from": made["path"]})
    assert 3 <= stopped.step < 6
    assert tiny_runs.losses(before) | tiny_runs.losses(after) == tiny_runs.losses(frames)
    assert result.data["held_out"] == whole.data["held_out"]


def test_every_weight_is_tuned_by_another_loss(
    tmp_path: Path, tiny_base: Path, pairs: dict[str, list[str]]
) -> None:
    wanted = {"method": "full", "loss": "ipo", "max_steps": 20, "batch_size": 8, "learning_rate": 3e-3}
    spec = tiny_runs.spec("dpo", tmp_path, pairs, base_dir=str(tiny_base), hyperparameters=wanted)
    result, _ = tiny_runs.run_here(spec)
    assert result.data["held_out"]["reward_accuracy"] >= 0.8
    assert (Path(result.output_dir) / "model.safetensors").exists()
    assert compare(Path(result.output_dir), None, tmp_path / "work" / "parity")["parity"]["passed"]


PROMPT = {"prompt": "Where is my order?", "chosen": "On its way.", "rejected": "No idea."}
MESSAGES = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (PROMPT | {"rejected": "On its way."}, "line 2: the better and the worse answer are the same"),
        (MESSAGES, "line 2: the row is a conversation with one answer, for supervised fine-tuning"),
        ({"text": "Hi", "label": "a"}, "line 2: the row is a conversation with one answer"),
        ({"prompt": "Hi", "chosen": "Hello"}, "line 2: the pair lacks `rejected`"),
        ({"surprise": 1}, "line 2: the row is no preference pair"),
        (PROMPT | {"prompt": ""}, "line 2: `prompt` must be a text that is not empty"),
        (PROMPT | {"prompt": MESSAGES["messages"]}, "line 2: the prompt ends with an assistant message"),
        (PROMPT | {"chosen": MESSAGES["messages"]}, "line 2: `chosen` must hold exactly one assistant"),
        (
            {"input": [], "preferred_output": [], "non_preferred_output": []},
            "line 2: `input` is a list; it must be an object",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    paths = tiny_runs.write(tmp_path / "pairs.jsonl", [PROMPT, row])
    with pytest.raises(InvalidInput) as caught:
        read_pairs([Path(p) for p in paths], "train", "training_file")
    assert caught.value.message.startswith(why)
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")


@pytest.mark.parametrize(
    ("train", "validation", "why"),
    [
        ([], None, "the training split is empty"),
        ([PROMPT] * 3, None, "all 3 pairs of the training split are the same one"),
        ([PROMPT], [], "the validation file has no pair"),
    ],
)
def test_a_split_that_teaches_nothing_is_refused(
    tmp_path: Path, train: list[Any], validation: list[Any] | None, why: str
) -> None:
    files = [Path(p) for p in tiny_runs.write(tmp_path / "t.jsonl", train)]
    others = [Path(p) for p in tiny_runs.write(tmp_path / "v.jsonl", validation or [])]
    with pytest.raises(InvalidInput, match=why):
        read_both(files, others if validation is not None else [], 0)


def test_pairs_that_are_too_long_are_refused_with_the_numbers(
    tmp_path: Path, tiny_base: Path, pairs: dict[str, list[str]]
) -> None:
    spec = tiny_runs.spec("dpo", tmp_path, pairs, base_dir=str(tiny_base), hyperparameters={"max_length": 16})
    with pytest.raises(InvalidInput, match=r"no pair fits within 16 tokens.*the shortest has \d+"):
        tiny_runs.run_here(spec)


def test_a_share_of_the_prompts_is_held_out_of_a_file(tmp_path: Path) -> None:
    rows = [PROMPT | {"prompt": f"Question {n % 30}?", "chosen": f"Yes {n}."} for n in range(60)]
    files = [Path(p) for p in tiny_runs.write(tmp_path / "t.jsonl", rows)]
    training, held_out = read_both(files, [], 3)
    assert len(training) + len(held_out) == 60
    assert len(held_out) == 6
    assert not {p.group for p in training} & {p.group for p in held_out}
    assert read_both(files, [], 3)[1] == held_out


@pytest.mark.parametrize("shape", ["completion", "text"])
def test_a_version_made_of_labelled_pairs_has_them(tmp_path: Path, shape: str) -> None:
    """The recipe maps `prompt` with `chosen`, or `prompt` alone; the rest of the row stands in `meta`."""
    dice, rows = random.Random(1), []
    for n in range(8):
        pair = PROMPT | {"prompt": f"Question {n}?"}
        meta = {"rejected": pair["rejected"], "labellers": 3}
        messages, text = None, None
        if shape == "completion":
            turns = (("user", pair["prompt"]), ("assistant", pair["chosen"]))
            messages = [{"role": role, "content": content} for role, content in turns]
        else:
            text, meta = pair["prompt"], meta | {"chosen": pair["chosen"]}
        rows.append(
            {
                "_row_id": f"row-{n}",
                "_source": 0,
                "_source_line": n + 1,
                "_parents": None,
                "id": str(n),
                "messages": messages,
                "text": text,
                "label": None,
                "meta": json.dumps(meta),
                "split": dice.choice(["train", "validation"]),
            }
        )
    path = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    training, held_out = read_both([path], [path], 0)
    assert len(training) == sum(row["split"] == "train" for row in rows)
    assert len(training) + len(held_out) == 8
    assert all((p.chosen.content, p.rejected.content) == ("On its way.", "No idea.") for p in training)
    assert {p.prompt[-1].content for p in (*training, *held_out)} == {f"Question {n}?" for n in range(8)}
