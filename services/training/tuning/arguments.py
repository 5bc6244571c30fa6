"""What TRL's trainer is told. Only what is set on purpose: no reports, no hub, no bars; order and saving are ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from trl import SFTConfig

from services.training.hyperparameters import SftHyperparameters
from services.training.ranks.shares import handed_out
from services.training.spec import Spec
from services.training.tokenizer import Encoded
from services.training.tuning.choices import Choices

# Positions of a held-out batch: without activations to keep, as many fit as a CPU or GPU is busy with.
_EVAL_TOKENS = 32_768


def arguments(
    spec: Spec,
    wanted: SftHyperparameters,
    chosen: Choices,
    peak: float,
    device: torch.device,
    held_out: Sequence[Encoded],
    model: PreTrainedModel,
) -> SFTConfig:
    lora = wanted.method == "lora"
    longest = max((len(e.ids) for e in held_out), default=1)
    return SFTConfig(
        output_dir=str(spec.workdir / "trl"),
        seed=spec.seed,
        num_train_epochs=1,
        per_device_train_batch_size=chosen.rows,
        gradient_accumulation_steps=chosen.parts,
        per_device_eval_batch_size=max(1, min(32, _EVAL_TOKENS // longest)),
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
        optim="adamw_torch_fused",
        learning_rate=peak,
        weight_decay=0.0 if lora else 0.01,
        adam_beta2=0.95 if lora else 0.999,
        max_grad_norm=1.0,
        max_length=None,
        packing=False,
        padding_free=chosen.packing,
        loss_type="dft" if wanted.loss == "dft" else "nll",
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=device.type == "cpu",
        bf16=chosen.precision == "bfloat16",
        gradient_checkpointing=chosen.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if chosen.checkpointing else None,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        do_eval=bool(held_out),
        report_to="none",
        push_to_hub=False,
        disable_tqdm=True,
        **(sharded(model) if chosen.processes > 1 else {}),
    )


def sharded(model: PreTrainedModel) -> dict[str, Any]:
    """FSDP2 over all processes, a unit to a layer; state is gathered whole, so that any number can go on with it."""
    layers = sorted(model._no_split_modules or ())
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "state_dict_type": "FULL_STATE_DICT",
            "reshard_after_forward": True,
            "cpu_ram_efficient_loading": handed_out(model),
            **({"transformer_layer_cls_to_wrap": layers} if layers else {}),
        },
    }
