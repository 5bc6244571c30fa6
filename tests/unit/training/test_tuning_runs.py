"""Fine-tuning with each option, on a model of a few thousand weights: resumed, served as trained, told, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from services.inference.parity import compare
from services.training import model_folder, sft
from services.training.hyperparameters import SftHyperparameters, parse
from services.training.run import Run
from services.training.spec import parse_spec
from services.training.tuning import adapters
from shared.errors import InvalidInput
from tests.unit.training import tiny_runs

PACE = {
    "max_steps": 8,
    "batch_size": 8,
    "log_every": 1,
    "checkpoint_every": 3,
    "lora_r": 4,
    "learning_rate": 1e-2,
}


@pytest.fixture
def asked(tmp_path: Path, tiny_base: Path, tiny_data: dict[str, list[str]]) -> Any:
    def make(name: str, **more: Any) -> dict[str, Any]:
        resume = {"resume_from": more.pop("resume_from")} if "resume_from" in more else {}
        wanted = {
            k: v for k, v in (PACE | more).items() if not (k == "lora_r" and more.get("method") == "full")
        }
        return tiny_runs.spec(
            "sft", tmp_path / name, tiny_data, base_dir=str(tiny_base), hyperparameters=wanted, **resume
        )

    return make


def _told(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """The event of how the run computes."""
    (found,) = [f["data"] for f in frames if f["type"] == "event" and "reasons" in f.get("data", {})]
    return found


def test_packed_in_parts_and_resumed_it_has_the_same_losses(asked: Any) -> None:
    options = {"packing": True, "gradient_accumulation_steps": 2, "lora_dropout": 0.1}
    _, frames = tiny_runs.run_here(asked("whole", **options))
    assert _told(frames)["packing"]
    _, before = tiny_runs.stop_at(asked("halves", **options), step=4, reason="pause")
    made = [f for f in before if f["type"] == "checkpoint"][-1]
    result, after = tiny_runs.run_here(asked("halves", **options, resume_from=made["path"]))
    whole = tiny_runs.losses(frames)
    assert len(whole) == 8
    assert tiny_runs.losses(before) | tiny_runs.losses(after) == whole
    assert min(tiny_runs.losses(after)) == made["step"] + 1
    assert whole[8] < 0.9 * whole[1]
    assert result.data["valid_loss"] < whole[1]


def test_a_step_in_parts_is_the_step(asked: Any) -> None:
    curves = [
        tiny_runs.losses(tiny_runs.run_here(asked(str(parts), gradient_accumulation_steps=parts))[1])
        for parts in (1, 4)
    ]
    assert list(curves[0].values()) == pytest.approx(list(curves[1].values()), rel=1e-4)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_compiled_it_has_the_same_losses(asked: Any) -> None:
    curves = [
        tiny_runs.losses(tiny_runs.run_here(asked(str(compiled), compile=compiled, packing=False))[1])
        for compiled in (False, True)
    ]
    assert list(curves[0].values()) == pytest.approx(list(curves[1].values()), rel=1e-3)


def test_an_adapter_scaled_by_the_root_is_served_as_trained(
    asked: Any, tiny_base: Path, tmp_path: Path
) -> None:
    result, frames = tiny_runs.run_here(asked("rs", use_rslora=True, target_modules=["q_proj", "down_proj"]))
    config = json.loads((Path(result.output_dir) / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["r"]) == (True, 4)
    samples = tmp_path / "rs" / "work" / "parity"
    assert compare(Path(result.output_dir), tiny_base, samples)["parity"]["passed"]
    told = next(f["data"] for f in frames if f["type"] == "event" and "target_modules" in f.get("data", {}))
    assert told["target_modules"] == ["down_proj", "q_proj"]
    # Scaled as plain LoRA is, the same matrices compute something else.
    (Path(result.output_dir) / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": False}))
    with pytest.raises(Exception, match="engine's logits differ"):
        compare(Path(result.output_dir), tiny_base, samples)


def test_dora_ends_as_a_merged_base(asked: Any, tmp_path: Path) -> None:
    result, frames = tiny_runs.run_here(asked("dora", use_dora=True, loss="label_smoothing"))
    folder = Path(result.output_dir)
    assert not (folder / "adapter_config.json").exists()
    assert compare(folder, None, tmp_path / "dora" / "work" / "parity")["parity"]["passed"]
    assert "linear_layers" in result.data
    assert any("merged into the weights" in f["message"] for f in frames if f["type"] == "event")
    assert result.data["loss"] == "label_smoothing"


@pytest.mark.parametrize(
    ("wanted", "param", "message"),
    [
        ({"lora_r": 17}, "lora_r", "at most 16"),
        ({"target_modules": ["q_pro"]}, "target_modules", "did you mean 'q_proj'"),
        ({"target_modules": ["lm_head"]}, "target_modules", "no linear layer 'lm_head'"),
        ({"quantization": "nf4"}, "quantization", "this worker has no GPU"),
        ({"batch_size": 6, "gradient_accumulation_steps": 4}, "gradient_accumulation_steps", "4 equal parts"),
    ],
)
def test_what_does_not_fit_the_model_or_the_machine_is_refused_before_training(
    asked: Any, wanted: dict[str, Any], param: str, message: str
) -> None:
    frames: list[Any] = []
    with pytest.raises(InvalidInput, match=message) as caught:
        sft.run(parse_spec(asked("bad", **wanted)), Run(frames.append))
    assert caught.value.param == f"hyperparameters.{param}"
    assert not any(f["type"] in ("metrics", "checkpoint") for f in frames)


def test_a_rank_is_chosen_within_the_width(asked: Any, tiny_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    layers = model_folder.linear_layers(model)
    assert set(layers.values()) == {16}
    assert "lm_head" not in layers
    assert adapters.lora_config(parse(SftHyperparameters, {}), layers, small=True).r == 16
    assert adapters.lora_config(parse(SftHyperparameters, {}), {"q_proj": 64}, small=True).r == 32


def test_a_base_in_few_bits_is_loaded_where_it_is_and_served_as_it_is_stored(
    asked: Any, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By stand-ins for the GPU and for bitsandbytes, which are not here."""
    gpu = torch.device("cuda")
    with pytest.raises(InvalidInput, match="bitsandbytes is not installed"):
        adapters.quantized("nf4", gpu)
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda _: object())
    four = adapters.quantized("nf4", gpu)["quantization_config"]
    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == (
        True,
        "nf4",
        True,
    )
    assert adapters.quantized("int8", gpu)["quantization_config"].load_in_8bit

    given: dict[str, Any] = {}
    plain = AutoModelForCausalLM.from_pretrained

    def from_pretrained(folder: Any, **options: Any) -> Any:
        given.update(options)
        options.pop("quantization_config", None)
        return plain(folder, **options)

    monkeypatch.setattr(model_folder.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(sft, "quantized", lambda *_: {"quantization_config": four})
    result, frames = tiny_runs.run_here(asked("few", quantization="nf4", max_steps=2))
    assert given["device_map"] == {"": torch.device("cpu")}
    assert any("served on the base as it is stored" in f["message"] for f in frames if f["type"] == "event")
    assert compare(Path(result.output_dir), tiny_base, tmp_path / "few" / "work" / "parity")["parity"][
        "passed"
    ]


def test_how_it_computes_is_told_with_reasons(asked: Any) -> None:
    _, frames = tiny_runs.run_here(asked("told", method="full", gradient_checkpointing=True, max_steps=1))
    told = _told(frames)
    assert (told["precision"], told["gradient_checkpointing"]) == ("float32", True)
    assert told["reasons"]["gradient_checkpointing"] == "asked for"
    assert "% full" in told["reasons"]["packing"]


def test_a_trained_model_names_its_attention_as_any_other(asked: Any) -> None:
    result, _ = tiny_runs.run_here(asked("plain", method="full", packing=True, max_steps=1))
    config = AutoConfig.from_pretrained(result.output_dir)
    assert "heliu" not in json.dumps(config.to_dict())
