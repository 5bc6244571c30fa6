"""How long, how fast and by what settings pairs are trained on: chosen from pairs, model and machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from trl import DPOConfig

from services.training import world
from services.training.dpo.encode import EncodedPair
from services.training.hyperparameters import DpoHyperparameters, SftHyperparameters
from services.training.plan import Schedule, epochs_for, order
from services.training.run import Run
from services.training.spec import Spec
from services.training.tuning.arguments import sharded
from services.training.tuning.choices import Choices, choose
from services.training.tuning.machine import shape_of, this_machine
from services.training.tuning.plan import Plan
from shared.contracts.preferences import SMOOTHED

# What the epochs of a small model come to in tokens, the most of them, and the tokens of a step.
SMALL_TARGET_TOKENS, SMALL_MOST_EPOCHS = 150_000, 10
STEP_TOKENS = 1536
_SMOOTHING = {"robust": 0.1, "exo_pair": 1e-3}


def as_tuned(wanted: DpoHyperparameters) -> SftHyperparameters:
    """What both ways of tuning have, as fine-tuning has it. TRL trains pairs without dropout."""
    return SftHyperparameters(
        method=wanted.method,
        lora_r=wanted.lora_r,
        lora_alpha=wanted.lora_alpha,
        target_modules=wanted.target_modules,
        use_rslora=wanted.use_rslora,
        packing=False,
    )


def make_plan(
    run: Run,
    spec: Spec,
    wanted: DpoHyperparameters,
    pairs: Sequence[EncodedPair],
    model: Any,
    device: torch.device,
    trainable: int,
    kept: dict[str, Any],
    *,
    small: bool,
) -> tuple[Plan, Choices]:
    """`kept` is what a resumed run chose before."""
    lengths = [p.tokens for p in pairs]
    machine = this_machine(device, trainable, model)
    auto = max(4, min(64, round(STEP_TOKENS * len(lengths) / sum(lengths)))) if small else 16
    auto = min(auto, len(lengths))
    # Equal shares, where nobody asked for a number.
    batch_size = wanted.batch_size or -(-auto // machine.processes) * machine.processes
    if wanted.n_epochs is None and wanted.max_steps is not None:
        epochs = -(-wanted.max_steps * batch_size // len(lengths))
    elif small:
        epochs = wanted.n_epochs or epochs_for(sum(lengths), SMALL_TARGET_TOKENS, SMALL_MOST_EPOCHS)
    else:
        epochs = wanted.n_epochs or 1
    chosen = choose(
        as_tuned(wanted), shape_of(model), machine, lengths, batch_size, "pairs are compared side by side"
    )
    chosen = world.told(chosen.kept(kept))
    rows = order(lengths, epochs, batch_size, spec.seed)
    if chosen.processes > 1 and len(rows) > batch_size:
        # Processes take equal shares of whole steps; the last, short one is left out.
        rows = rows[: len(rows) // batch_size * batch_size]
    steps = -(-len(rows) // batch_size)
    total = min(steps, wanted.max_steps or steps)
    rows = rows[: total * batch_size]
    plan = Plan(
        run=run,
        schedule=Schedule.of(total, wanted.warmup_ratio, wanted.max_seconds),
        rows=rows,
        lengths=np.asarray(lengths)[rows],
        batch_size=batch_size,
        rows_per_epoch=len(lengths),
        checkpoint_every=wanted.checkpoint_every or max(25, total // 4),
        log_every=wanted.log_every or max(1, total // 50),
        kept=chosen.state(),
    )
    return plan, chosen


def learning_rate(wanted: DpoHyperparameters, model: Any) -> float:
    """Auto: 2e-5 (LoRA) or 1e-6 (full) at a hidden size of 4096, higher for narrower models."""
    if wanted.learning_rate is not None:
        return wanted.learning_rate
    narrow = max(1.0, 4096 / int(model.config.get_text_config().hidden_size))
    return float((2e-5 if wanted.method == "lora" else 1e-6) * narrow**0.75)


def arguments(
    spec: Spec, wanted: DpoHyperparameters, chosen: Choices, peak: float, device: torch.device, model: Any
) -> DPOConfig:
    """Only what is set on purpose: no reports, no hub, no bars; order, schedule and saving are ours."""
    lora = wanted.method == "lora"
    smoothing = wanted.label_smoothing or _SMOOTHING.get(wanted.loss, 0.0)
    return DPOConfig(
        output_dir=str(spec.workdir / "trl"),
        seed=spec.seed,
        num_train_epochs=1,
        per_device_train_batch_size=chosen.rows,
        gradient_accumulation_steps=chosen.parts,
        per_device_eval_batch_size=16,
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
        optim="adamw_torch_fused",
        learning_rate=peak,
        weight_decay=0.0 if lora else 0.01,
        max_grad_norm=1.0,
        max_length=None,
        beta=wanted.beta,
        loss_type=[wanted.loss],
        label_smoothing=smoothing if wanted.loss in SMOOTHED else 0.0,
        precompute_ref_log_probs=True,
        use_cpu=device.type == "cpu",
        bf16=chosen.precision == "bfloat16",
        gradient_checkpointing=chosen.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if chosen.checkpointing else None,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        push_to_hub=False,
        disable_tqdm=True,
        **(sharded(model) if chosen.processes > 1 else {}),
    )
