"""Folders that could run code, or are no served model, are refused before anything of them is loaded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, BloomForCausalLM

from services.inference.engine.adapter_folder import UnsupportedAdapter, read_adapter
from services.inference.engine.attention import UnsupportedModel
from services.inference.engine.loading import BrokenModel, UnsafeModel, check_folder, end_tokens, load_model
from services.inference.engine.request import EngineConfig
from services.inference.engine.runner import ModelRunner
from tests.unit.inference.tiny_models import build_model, build_tokenizer, save_adapter, save_model

CONFIG = EngineConfig(kv_tokens=256)


OPTIONS: list[tuple[str, dict[str, object]]] = [
    ("use_dora", {"use_dora": True}),
    ("bias", {"bias": "all"}),
    ("modules_to_save", {"modules_to_save": ["lm_head"]}),
    ("init_lora_weights", {"init_lora_weights": "pissa"}),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


def test_pickled_weights_are_refused_and_never_read(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    with pytest.raises(UnsafeModel, match=r"pytorch_model\.bin"):
        load_model(str(folder), dtype="float32", device="cpu")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_wants_its_own_code_is_refused(folder: Path, name: str) -> None:
    (folder / "evil.py").write_text("raise SystemExit")
    edit(folder / name, auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(UnsafeModel, match="auto_map"):
        check_folder(str(folder))


def test_a_folder_that_is_not_there_is_told() -> None:
    with pytest.raises(BrokenModel, match="/nowhere"):
        check_folder("/nowhere")


def test_weights_cut_short_are_told(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BrokenModel):
        load_model(str(folder), dtype="float32", device="cpu")


def test_a_config_that_is_no_json_is_told(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(BrokenModel, match="JSON"):
        check_folder(str(folder))


def test_an_unknown_architecture_is_refused_by_name(folder: Path) -> None:
    edit(folder / "config.json", model_type="t5", architectures=["T5Model"])
    with pytest.raises(UnsupportedModel, match="t5"):
        load_model(str(folder), dtype="float32", device="cpu")


def test_weights_that_are_missing_are_told_instead_of_made_up(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BrokenModel, match="up_proj"):
        load_model(str(folder), dtype="float32", device="cpu")


def test_a_model_with_attention_of_its_own_is_refused(tmp_path: Path) -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel):
        ModelRunner.load(str(tmp_path), CONFIG)


def test_end_tokens_are_those_of_config_and_tokenizer_together(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    tokenizer = build_tokenizer()
    assert end_tokens(str(folder), tokenizer) == {0, 7, tokenizer.eos_token_id}


def test_an_adapter_of_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", build_model("llama", hidden_size=64))
    runner = ModelRunner.load(str(folder), CONFIG)
    weights = read_adapter(str(adapter), dtype="float32", device="cpu")
    with pytest.raises(UnsupportedAdapter, match="another base"):
        runner.adapters.install("a", weights)
    assert runner.adapters.names() == []


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=[name for name, _ in OPTIONS])
def test_an_adapter_option_that_is_not_served_is_named(
    folder: Path, tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    adapter = save_adapter(tmp_path / "a", folder, **options)
    edit(adapter / "adapter_config.json", **options)
    with pytest.raises(UnsupportedAdapter, match=name):
        read_adapter(str(adapter), dtype="float32", device="cpu")


def test_an_adapter_of_the_output_layer_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", folder, target_modules=["lm_head"])
    runner = ModelRunner.load(str(folder), CONFIG)
    with pytest.raises(UnsupportedAdapter, match="lm_head"):
        runner.adapters.install("a", read_adapter(str(adapter), dtype="float32", device="cpu"))


def test_an_adapter_with_values_that_are_not_finite_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", folder)
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = torch.inf
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(BrokenModel, match="not finite"):
        read_adapter(str(adapter), dtype="float32", device="cpu")
