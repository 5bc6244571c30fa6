"""Adapters on a model: which of its layers can have one, their configuration, and a base held in few bits."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, PreTrainedModel

from services.training.hyperparameters import SftHyperparameters
from services.training.spec import Spec
from services.training.start import trained_on
from shared.contracts.tuning import LoraParameters, check_adapter
from shared.errors import InvalidInput

_RANK, _SMALL_RANK = 16, 32


def lora_config(wanted: SftHyperparameters, layers: dict[str, int], *, small: bool) -> LoraConfig:
    """PEFT's configuration. Raises InvalidInput for layers that the model lacks and a rank over their width."""
    asked = LoraParameters(
        lora_r=wanted.lora_r or "auto",
        target_modules="auto" if isinstance(wanted.target_modules, str) else wanted.target_modules,
    )
    check_adapter(asked, layers)
    names = sorted(layers) if asked.target_modules == "auto" else list(asked.target_modules)
    narrowest = min(layers[name] for name in names)
    rank = wanted.lora_r or min(_SMALL_RANK if small else _RANK, narrowest)
    return LoraConfig(
        r=rank,
        lora_alpha=wanted.lora_alpha or 2 * rank,
        lora_dropout=wanted.lora_dropout,
        target_modules="all-linear" if asked.target_modules == "auto" else names,
        use_rslora=wanted.use_rslora,
        use_dora=wanted.use_dora,
        bias="none",
        task_type="CAUSAL_LM",
    )


def with_adapter(
    model: PreTrainedModel, config: LoraConfig | None, spec: Spec, wanted: SftHyperparameters
) -> Any:
    """A new adapter of this configuration on the model, or the one that the run starts from, to be trained further."""
    if config is not None:
        return get_peft_model(model, config, low_cpu_mem_usage=model.device.type == "meta")
    assert spec.adapter_dir is not None
    return trained_on(model, spec.adapter_dir, spec.hyperparameters, wanted.lora_dropout)


def adapter_facts(model: Any) -> dict[str, Any]:
    """What is told of the adapter on a model; nothing where it has none."""
    config = getattr(model, "peft_config", {}).get("default")
    if config is None:
        return {}
    return {
        "lora_r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in config.target_modules}),
        "use_rslora": bool(config.use_rslora),
        "use_dora": bool(config.use_dora),
    }


def quantized(kind: str, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told for a base in `nf4` or `int8`; nothing for `none`.

    Raises InvalidInput where this worker cannot hold one.
    """
    if kind == "none":
        return {}
    why = None
    if device.type != "cuda":
        why = "this worker has no GPU"
    elif importlib.util.find_spec("bitsandbytes") is None:
        why = "bitsandbytes is not installed on this worker"
    if why is not None:
        raise InvalidInput(
            f"quantization is {kind!r}, but {why}; leave it out, or train where both are there",
            code="quantization_unsupported",
            param="hyperparameters.quantization",
        )
    if kind == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config}
