"""Hyperparameters of fine-tuning: each described, and what does not go together is refused with what would."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.preferences import PreferenceParameters
from shared.contracts.training import FineTuneParameters, PretrainParameters
from shared.contracts.tuning import LoraParameters, check_adapter
from shared.errors import InvalidInput

LAYERS = {"q_proj": 64, "k_proj": 16, "down_proj": 64}


@pytest.mark.parametrize("parameters", [FineTuneParameters, PreferenceParameters, PretrainParameters])
def test_every_parameter_says_what_it_does(parameters: Any) -> None:
    for name, told in parameters.model_json_schema()["properties"].items():
        assert len(told.get("description", "")) > 20, name


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ({"method": "full", "lora_r": 8}, "lora_r", "goes with the method 'lora'"),
        ({"method": "full", "use_dora": True}, "use_dora", "goes with the method 'lora'"),
        ({"method": "full", "quantization": "nf4"}, "quantization", "goes with the method 'lora'"),
        ({"label_smoothing": 0.1}, "label_smoothing", "goes with the loss 'label_smoothing'"),
        ({"use_dora": True, "quantization": "nf4"}, "use_dora", "leave out use_dora or quantization"),
        ({"processes": 2, "quantization": "int8"}, "processes", "processes is 1"),
        ({"batch_size": 6, "gradient_accumulation_steps": 4}, "gradient_accumulation_steps", "a multiple"),
        ({"batch_size": 7, "processes": 2}, "processes", "a multiple"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        FineTuneParameters(**given)
    assert caught.value.param == f"hyperparameters.{param}"


def test_pairs_are_shared_out_evenly() -> None:
    with pytest.raises(InvalidInput, match="batch_size 6 cannot be shared out evenly among 4") as caught:
        PreferenceParameters(batch_size=6, processes=4)
    assert caught.value.param == "hyperparameters.processes"
    assert PreferenceParameters(batch_size=8, processes=4, early_stopping_patience=2).keep_best == "auto"


def test_what_goes_together_is_taken() -> None:
    FineTuneParameters(method="full", lora_r="auto", loss="dft")
    FineTuneParameters(loss="label_smoothing", label_smoothing=0.2, use_rslora=True)
    FineTuneParameters(batch_size=8, gradient_accumulation_steps=2, processes=2, packing=True)
    assert FineTuneParameters().makes_adapter
    assert not FineTuneParameters(use_dora=True).makes_adapter


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ({"lora_r": 17}, "lora_r", "width of the layer 'k_proj'; with these target modules it is at most 16"),
        ({"lora_r": 65, "target_modules": ("q_proj",)}, "lora_r", "at most 64"),
        ({"target_modules": ("k_porj",)}, "target_modules", "did you mean 'k_proj'"),
        ({"target_modules": ("zzz",)}, "target_modules", "those that it has are down_proj, k_proj, q_proj"),
        ({"target_modules": ()}, "target_modules", "empty"),
    ],
)
def test_an_adapter_that_a_model_cannot_have_is_refused(
    given: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        check_adapter(LoraParameters(**given), LAYERS)
    assert caught.value.param == f"hyperparameters.{param}"


def test_an_adapter_within_the_width_is_taken() -> None:
    check_adapter(LoraParameters(lora_r=16), LAYERS)
    check_adapter(LoraParameters(lora_r=64, target_modules=("q_proj", "down_proj")), LAYERS)
