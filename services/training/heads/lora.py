"""LoRA matrices in every linear layer of a trunk, and their merging into it. PEFT is loaded at the first use."""

from __future__ import annotations

from collections.abc import Sequence

from services.training.heads.model import HeadModel
from services.training.heads.trunk import Trunk
from shared.errors import InvalidInput


def add_lora(trunk: Trunk, models: Sequence[HeadModel], rank: int, alpha: float | None) -> None:
    """Wrap the trunk that `models` stand on; from here on the matrices and last layers alone are trained.

    Raises InvalidInput for a rank over the trunk's width.
    """
    from peft import LoraConfig, get_peft_model  # costs seconds, and only LoRA needs it

    if rank > trunk.width:
        raise InvalidInput(
            f"lora_r is {rank}, and the model is {trunk.width} wide; a rank over the width has nothing to add",
            param="hyperparameters.lora_r",
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=int(alpha or 2 * rank),
        target_modules="all-linear",
        bias="none",
        task_type="FEATURE_EXTRACTION",
    )
    trunk.model = get_peft_model(trunk.model, config)
    for model in models:
        model.body = trunk.model


def merge_lora(trunk: Trunk, models: Sequence[HeadModel]) -> None:
    """What the matrices have learned becomes part of the trunk."""
    trunk.model = trunk.model.merge_and_unload()  # type: ignore[operator]
    for model in models:
        model.body = trunk.model
