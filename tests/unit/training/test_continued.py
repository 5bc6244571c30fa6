"""A model that is trained on: texts that it comes to know, adapters as a start of every way, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from services.inference.parity import compare
from services.training.losses import collate, next_token_loss, splits
from shared.contracts.generation_config import FILE, read_pinned
from shared.errors import InvalidInput
from tests.unit.training import tiny_runs

TEXTS = [{"text": f"Parcels take three days, number {n}. 快递三天到。"} for n in range(60)]
CONTINUED = {"max_steps": 20, "batch_size": 8, "log_every": 1}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return {"train": tiny_runs.write(tmp_path_factory.mktemp("texts") / "texts.jsonl", TEXTS)}


@pytest.fixture(scope="module")
def adapter(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: dict[str, list[str]]
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("adapter")
    wanted = {"max_steps": 20, "batch_size": 8, "lora_r": 4}
    spec = tiny_runs.spec("sft", folder, tiny_data, base_dir=str(tiny_base), hyperparameters=wanted)
    result, _ = tiny_runs.run_here(spec)
    return Path(result.output_dir), result.data


def test_held_out_texts_cost_less_than_before_and_the_tokenizer_stays(
    tmp_path: Path, tiny_base: Path, texts: dict[str, list[str]]
) -> None:
    spec = tiny_runs.spec("pretrain", tmp_path, texts, base_dir=str(tiny_base), hyperparameters=CONTINUED)
    result, frames = tiny_runs.run_here(spec)
    held_out, baseline = result.data["held_out"], result.data["baseline"]
    assert baseline["name"] == "the model before"
    assert held_out["perplexity"] < 0.8 * baseline["perplexity"]
    assert held_out["tokens"] == baseline["tokens"] > 0
    losses = list(tiny_runs.losses(frames).values())
    assert losses[-1] < losses[0]
    folder = Path(result.output_dir)
    assert (folder / "tokenizer.json").read_bytes() == (tiny_base / "tokenizer.json").read_bytes()
    assert compare(folder, None, tmp_path / "work" / "parity")["parity"]["passed"]


def test_paused_and_resumed_it_has_the_same_losses_and_baseline(
    tmp_path: Path, tiny_base: Path, texts: dict[str, list[str]]
) -> None:
    more = {"base_dir": str(tiny_base), "hyperparameters": CONTINUED | {"max_steps": 8}}
    whole, frames = tiny_runs.run_here(tiny_runs.spec("pretrain", tmp_path / "a", texts, **more))
    spec = tiny_runs.spec("pretrain", tmp_path / "b", texts, **more)
    _, before = tiny_runs.stop_at(spec, 3, "pause")
    (made,) = [f for f in before if f["type"] == "checkpoint"]
    result, after = tiny_runs.run_here(spec | {"resume_from": made["path"]})
    assert tiny_runs.losses(before) | tiny_runs.losses(after) == tiny_runs.losses(frames)
    for name in ("held_out", "baseline"):
        assert result.data[name] == whole.data[name]


def test_what_needs_held_out_texts_is_refused_by_name_where_there_are_none(
    tmp_path: Path, tiny_base: Path
) -> None:
    few = tiny_runs.write(tmp_path / "few.jsonl", TEXTS[:5])
    for asked in ({"early_stopping_patience": 2}, {"keep_best": True}):
        wanted = CONTINUED | asked
        spec = tiny_runs.spec(
            "pretrain", tmp_path, {"train": few}, base_dir=str(tiny_base), hyperparameters=wanted
        )
        with pytest.raises(InvalidInput, match="judged by held-out rows") as refused:
            tiny_runs.run_here(spec)
        [name] = asked
        assert refused.value.param == f"hyperparameters.{name}"


def test_a_model_that_forgets_is_kept_as_it_was_at_its_best(tmp_path: Path, tiny_base: Path) -> None:
    rows = [{"text": f"Parcels take {n % 7} days."} for n in range(40)]
    other = [
        {"text": f"{word} 已经寄出，请查收。"} for word in ("包裹", "发票", "合同", "样品") for _ in range(3)
    ]
    data = {
        "train": tiny_runs.write(tmp_path / "rows.jsonl", rows),
        "validation": tiny_runs.write(tmp_path / "other.jsonl", other),
    }
    # What it learns here makes the others ever less likely.
    wanted = {"n_epochs": 8, "batch_size": 8, "learning_rate": 0.02, "warmup_ratio": 0}
    spec = tiny_runs.spec("pretrain", tmp_path, data, base_dir=str(tiny_base), hyperparameters=wanted)
    result, frames = tiny_runs.run_here(spec)
    looks = {
        f["step"]: f["data"]["valid_loss"]
        for f in frames
        if f["type"] == "metrics" and "valid_loss" in f["data"]
    }
    best = min(looks, key=lambda step: looks[step])
    assert best == result.data["best_step"] < result.data["steps"] == 40
    assert result.data["held_out"]["loss"] == pytest.approx(looks[best], rel=1e-5)
    assert result.data["valid_loss"] == looks[best]
    stopped = spec | {"output_dir": str(tmp_path / "early"), "workdir": str(tmp_path / "early-work")}
    early, _ = tiny_runs.run_here(
        stopped | {"hyperparameters": wanted | {"early_stopping_patience": 1, "keep_best": False}}
    )
    assert "best_step" not in early.data
    assert early.data["planned_steps"] == 40
    assert early.data["held_out"]["loss"] == pytest.approx(looks[early.data["steps"]], rel=1e-5)


def test_of_an_adapter_its_own_matrices_are_trained_further(
    tmp_path: Path, tiny_base: Path, texts: dict[str, list[str]], adapter: tuple[Path, dict[str, Any]]
) -> None:
    started, _ = adapter
    spec = tiny_runs.spec(
        "pretrain",
        tmp_path,
        texts,
        base_dir=str(tiny_base),
        adapter_dir=str(started),
        hyperparameters=CONTINUED,
        decoding={"temperature": 0.5, "top_k": 7},
    )
    result, _ = tiny_runs.run_here(spec)
    assert result.data["held_out"]["perplexity"] < result.data["baseline"]["perplexity"]
    made = Path(result.output_dir)
    mine, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (made, started))
    assert {name: t.shape for name, t in mine.items()} == {name: t.shape for name, t in theirs.items()}
    assert any(not torch.equal(mine[name], theirs[name]) for name in theirs)
    found = compare(made, tiny_base, tmp_path / "work" / "parity")
    assert (found["parity"]["passed"], found["pinned"]["decoding"]) == (
        True,
        {"temperature": 0.5, "top_k": 7},
    )


@pytest.mark.parametrize("method", ["lora", "full"])
def test_fine_tuning_begins_where_the_adapter_was(
    tmp_path: Path,
    tiny_base: Path,
    tiny_data: dict[str, list[str]],
    adapter: tuple[Path, dict[str, Any]],
    method: str,
) -> None:
    """With every weight trained, the adapter becomes a part of them first."""
    started, before = adapter
    wanted = {"method": method, "max_steps": 3, "batch_size": 8, "learning_rate": 1e-6, "log_every": 1}
    spec = tiny_runs.spec(
        "sft",
        tmp_path,
        tiny_data,
        base_dir=str(tiny_base),
        adapter_dir=str(started),
        hyperparameters=wanted | {"checkpoint_every": 2},
        decoding={"temperature": 0.0, "max_tokens": 5},
    )
    result, frames = tiny_runs.run_here(spec)
    kept = next(Path(frame["path"]) for frame in frames if frame["type"] == "checkpoint")
    for folder in (kept, Path(result.output_dir)):
        assert read_pinned((folder / FILE).read_bytes()) == {"temperature": 0.0, "max_tokens": 5}
    assert result.data["valid_loss"] == pytest.approx(before["valid_loss"], abs=1e-3)
    base = tiny_base if method == "lora" else None
    assert compare(Path(result.output_dir), base, tmp_path / "work" / "parity")["parity"]["passed"]


@pytest.mark.parametrize(
    ("kind", "wanted", "param"),
    [
        ("sft", {"lora_r": 8}, "hyperparameters.lora_r"),
        ("sft", {"target_modules": ["q_proj"]}, "hyperparameters.target_modules"),
        ("pretrain", {"context_length": 97}, "hyperparameters.context_length"),
    ],
)
def test_a_shape_that_is_not_what_is_started_from_is_refused(
    tmp_path: Path,
    tiny_base: Path,
    tiny_data: dict[str, list[str]],
    adapter: tuple[Path, dict[str, Any]],
    kind: str,
    wanted: dict[str, Any],
    param: str,
) -> None:
    spec = tiny_runs.spec(
        kind,
        tmp_path,
        tiny_data,
        base_dir=str(tiny_base),
        adapter_dir=str(adapter[0]),
        hyperparameters=wanted,
    )
    with pytest.raises(InvalidInput) as caught:
        tiny_runs.run_here(spec)
    assert caught.value.param == param


def test_an_adapter_that_cannot_be_trained_on_is_refused_by_name(
    tmp_path: Path, tiny_base: Path, tiny_data: dict[str, list[str]], adapter: tuple[Path, dict[str, Any]]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    spec = tiny_runs.spec(
        "sft", tmp_path, tiny_data, base_dir=str(tiny_base), adapter_dir=str(other), hyperparameters={}
    )
    with pytest.raises(InvalidInput, match="the adapter cannot be started from") as caught:
        tiny_runs.run_here(spec)
    assert (caught.value.code, caught.value.param) == ("invalid_model", "model")


def test_a_model_of_another_family_without_a_chat_template_is_trained_on(
    tmp_path: Path, tiny_base: Path, texts: dict[str, list[str]]
) -> None:
    """GPT-2 has other names for its parts, and dropout."""
    base = tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, **ends)
    GPT2LMHeadModel(config).save_pretrained(base)
    spec = tiny_runs.spec(
        "pretrain",
        tmp_path,
        texts,
        base_dir=str(base),
        hyperparameters=CONTINUED | {"learning_rate": 1e-2},
    )
    result, _ = tiny_runs.run_here(spec)
    assert result.data["held_out"]["perplexity"] < 0.8 * result.data["baseline"]["perplexity"]
    assert compare(Path(result.output_dir), None, tmp_path / "work" / "parity")["parity"]["passed"]


def test_a_model_that_changes_its_logits_is_asked_for_them() -> None:
    torch.manual_seed(0)

    class Scaled(GPT2LMHeadModel):
        def forward(self, **given: Any) -> Any:
            found = super().forward(**given)
            found.logits = 3 * found.logits
            return found

    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    plain, scaled = GPT2LMHeadModel(config).eval(), Scaled(config).eval()
    scaled.load_state_dict(plain.state_dict())
    assert splits(plain)
    assert not splits(scaled)
    ids, labels = collate([torch.arange(1, 12).numpy()], 0, torch.device("cpu"))
    whole, _, count = next_token_loss(scaled, ids, labels, whole=True)
    logits = 3 * plain(input_ids=ids).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    assert count == 10
    assert whole.item() == pytest.approx(expected.item(), rel=1e-5)
