"""Reads a LoRA adapter from a PEFT folder, and refuses what would be served otherwise than it was trained."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file

from services.inference.engine.loading import BrokenModel, check_folder, read_json
from shared.errors import HeliuError

WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight$")
# Options that change the computation beyond y = Wx + s BAx, with the values that leave it alone.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
    "arrow_config": (None,),
    # The others start from a base of changed weights (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA).
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}


class UnsupportedAdapter(HeliuError):
    """The adapter needs something that is not served, or does not belong to this base."""

    code = "adapter_unsupported"


@dataclass(frozen=True)
class AdapterWeights:
    """By module name: A (rank, in) and B (out, rank) with the scaling already in B."""

    matrices: dict[str, tuple[torch.Tensor, torch.Tensor]]


def read_adapter(path: str, *, dtype: str, device: str) -> AdapterWeights:
    """Read a PEFT LoRA folder. Raises UnsafeModel, BrokenModel or UnsupportedAdapter."""
    folder = check_folder(path)
    config = read_json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise UnsupportedAdapter(
            f"peft_type of {path!r} is {config.get('peft_type')!r}; only 'LORA' is served"
        )
    for name, neutral in _NEUTRAL.items():
        if name in config and config[name] not in neutral:
            raise UnsupportedAdapter(f"{name}={config[name]!r} of {path!r} is not served", param=name)
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as exc:
        raise BrokenModel(f"{WEIGHTS} of {path!r} cannot be read: {exc}", param="path") from exc
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise UnsupportedAdapter(f"tensor {key!r} of {path!r} is no LoRA matrix of a linear layer")
        if not torch.isfinite(tensor).all():
            raise BrokenModel(f"tensor {key!r} of {path!r} has values that are not finite", param="path")
        found.setdefault(match["module"], {})[match["part"]] = tensor.to(device, getattr(torch, dtype))
    matrices = {}
    for module, parts in found.items():
        if len(parts) != 2:
            raise BrokenModel(f"{module!r} of {path!r} has only lora_{next(iter(parts))}", param="path")
        matrices[module] = (parts["A"], parts["B"] * _scaling(config, module, parts["A"].shape[0]))
    return AdapterWeights(matrices)


def _scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) with rsLoRA (https://arxiv.org/abs/2312.03732)."""
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)
