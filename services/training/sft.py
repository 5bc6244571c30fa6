"""Supervised fine-tuning on the assistant's answers with TRL: a LoRA adapter or every weight. The only user of TRL.

Rows are rendered, masked and ordered here (as they will be served); TRL's SFTTrainer does the rest. Its checkpoints
go through the project's own atomic folders.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

from services.training.checkpoint import CheckpointStore, fingerprint, verify
from services.training.dataset import Split, conversations, read_rows
from services.training.hyperparameters import SftHyperparameters, parse
from services.training.model_folder import (
    check_parity,
    context_length,
    prepare_torch,
    save_adapter,
    save_model,
)
from services.training.plan import Schedule, epochs_for, order
from services.training.run import Result, Run, Stopped
from services.training.sft_trainer import Plan, ReportingTrainer
from services.training.spec import Spec
from services.training.start import load_start, trained_on, weights_of
from services.training.tokenizer import Encoded, encode_conversation
from shared.errors import InvalidInput

# Below this many parameters a model is trained on a CPU in minutes, and wants high rates and many looks at its data.
SMALL_MODEL = 50_000_000
SMALL_TARGET_TOKENS = 220_000
SMALL_MOST_EPOCHS = 20
STEP_TOKENS = 768
VALIDATION_SEQUENCES = 128
_LONGEST = 4096


def run(spec: Spec, run: Run) -> Result:
    """Fine-tune `spec.base_dir` and write an adapter (lora) or a whole model (full) to `spec.output_dir`.

    Raises InvalidInput on bad data, model, hyperparameters or checkpoint; Stopped when asked to stop.
    """
    wanted = parse(SftHyperparameters, spec.hyperparameters)
    device = prepare_torch(spec.threads, spec.seed)
    assert spec.base_dir is not None
    mark = _fingerprint(spec, wanted)
    resumed = verify(spec.resume_from, fingerprint=mark) if spec.resume_from else None

    with run.timed("load") as seen:
        model, tokenizer = load_start(spec, device, merge=wanted.method == "full")
        seen["parameters"] = parameters = model.num_parameters()
    with run.timed("tokenise") as seen:
        room = min(wanted.max_length or _LONGEST, context_length(model))
        training = _encode(spec, tokenizer, "train", room)
        held_out = _encode(spec, tokenizer, "validation", room)
        tokens = sum(len(e.ids) for e in training)
        seen |= {"sequences": len(training), "tokens": tokens}

    small = parameters < SMALL_MODEL
    plan = _plan(spec, run, wanted, training, tokens, small)
    plan.store = CheckpointStore(spec.workdir / "checkpoints", mark, resumed=spec.resume_from)
    torch.manual_seed(spec.seed)
    if wanted.method == "lora" and spec.adapter_dir is not None:
        model = trained_on(model, spec.adapter_dir, spec.hyperparameters, wanted.lora_dropout)
    elif wanted.method == "lora":
        model = get_peft_model(model, _lora(wanted, small))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    peak = _learning_rate(wanted, model) * wanted.learning_rate_multiplier
    run.event(
        f"fine-tuning {trainable:,} of {parameters:,} parameters on {len(training):,} sequences "
        f"({tokens:,} tokens) for {plan.schedule.total} steps",
        data={
            "method": wanted.method,
            "trainable_parameters": trainable,
            "sequences": len(training),
            "tokens": tokens,
            "batch_size": plan.batch_size,
            "learning_rate": peak,
            "total_steps": plan.schedule.total,
        },
    )
    trainer = ReportingTrainer(
        plan=plan,
        model=model,
        args=_arguments(spec, wanted, plan, peak, device),
        train_dataset=_dataset([training[i] for i in plan.rows]),
        eval_dataset=_dataset(held_out) if held_out else None,
        processing_class=tokenizer,
    )
    if resumed:
        plan.schedule.restore(json.loads((resumed.path / "plan.json").read_text(encoding="utf-8")))
        run.event(f"resumed at step {resumed.step}")
    trainer.train(resume_from_checkpoint=str(resumed.path) if resumed else None)
    if trainer.left:
        raise Stopped(run.stop_reason or "drain", trainer.state.global_step)

    with run.timed("save"):
        difference = _save(spec, wanted, model, tokenizer)
    return Result(
        str(spec.output_dir),
        plan.tokens_of(trainer.state.global_step),
        {
            "method": wanted.method,
            "steps": trainer.state.global_step,
            "epochs": plan.epoch(trainer.state.global_step),
            "trainable_parameters": trainable,
            "parity_max_abs_difference": difference,
            **plan.last_metrics,
        },
    )


def _fingerprint(spec: Spec, wanted: SftHyperparameters) -> str:
    facts = {
        "kind": spec.kind,
        "seed": spec.seed,
        "hyperparameters": asdict(wanted),
        "base": weights_of(spec),
    }
    return fingerprint(facts, {"train": list(spec.data.train), "validation": list(spec.data.validation)})


def _encode(spec: Spec, tokenizer: PreTrainedTokenizerBase, split: Split, room: int) -> list[Encoded]:
    training = split == "train"
    param = "training_file" if training else "validation_file"
    paths = spec.data.train if training else spec.data.validation
    sequences = [
        encoded
        for _, turns in conversations(read_rows(paths, split, param), param)
        for encoded in encode_conversation(tokenizer, turns, room)
    ]
    if training:
        if not sequences:
            raise InvalidInput(
                f"no conversation of the training split has an answer within {room} tokens",
                code="invalid_training_file",
                param=param,
            )
        return sequences
    picked = np.random.default_rng(spec.seed).permutation(len(sequences))[:VALIDATION_SEQUENCES]
    return sorted((sequences[i] for i in picked), key=lambda e: len(e.ids))


def _plan(
    spec: Spec, run: Run, wanted: SftHyperparameters, training: list[Encoded], tokens: int, small: bool
) -> Plan:
    lengths = [len(e.ids) for e in training]
    default_batch = max(4, min(64, round(STEP_TOKENS * len(lengths) / tokens))) if small else 8
    batch_size = wanted.batch_size or min(default_batch, max(1, len(lengths)))
    if wanted.n_epochs is None and wanted.max_steps is not None:
        epochs = -(-wanted.max_steps * batch_size // len(lengths))
    elif small:
        epochs = wanted.n_epochs or epochs_for(tokens, SMALL_TARGET_TOKENS, SMALL_MOST_EPOCHS)
    else:
        epochs = wanted.n_epochs or 3
    rows = order(lengths, epochs, batch_size, spec.seed)
    steps = -(-len(rows) // batch_size)
    total = min(steps, wanted.max_steps or steps)
    rows = rows[: total * batch_size]
    return Plan(
        run=run,
        schedule=Schedule.of(total, wanted.warmup_ratio, wanted.max_seconds),
        rows=rows,
        lengths=np.asarray(lengths)[rows],
        batch_size=batch_size,
        rows_per_epoch=len(lengths),
        checkpoint_every=wanted.checkpoint_every or max(25, total // 4),
        log_every=wanted.log_every or max(1, total // 50),
    )


def _lora(wanted: SftHyperparameters, small: bool) -> LoraConfig:
    rank = wanted.lora_r or (32 if small else 16)
    modules = wanted.target_modules
    return LoraConfig(
        r=rank,
        lora_alpha=wanted.lora_alpha or 2 * rank,
        lora_dropout=wanted.lora_dropout,
        target_modules="all-linear" if modules == "auto" else list(modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


def _learning_rate(wanted: SftHyperparameters, model: PreTrainedModel) -> float:
    """Auto: 2e-4 (LoRA) or 2e-5 (full) at a hidden size of 4096, higher for narrower models."""
    if wanted.learning_rate is not None:
        return wanted.learning_rate
    width = model.config.get_text_config().hidden_size
    narrow = max(1.0, 4096 / int(width))
    return float((2e-4 if wanted.method == "lora" else 2e-5) * narrow**0.75)


def _arguments(
    spec: Spec, wanted: SftHyperparameters, plan: Plan, peak: float, device: torch.device
) -> SFTConfig:
    """Only what is set on purpose: no reports, no hub, no progress bars; order, schedule and saving are ours."""
    has_validation = bool(spec.data.validation)
    return SFTConfig(
        output_dir=str(spec.workdir / "trl"),
        seed=spec.seed,
        num_train_epochs=1,
        per_device_train_batch_size=plan.batch_size,
        per_device_eval_batch_size=32,
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
        learning_rate=peak,
        weight_decay=0.0 if wanted.method == "lora" else 0.01,
        adam_beta2=0.95 if wanted.method == "lora" else 0.999,
        max_grad_norm=1.0,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=device.type == "cpu",
        bf16=device.type == "cuda" and torch.cuda.is_bf16_supported(),
        gradient_checkpointing=False,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        do_eval=has_validation,
        report_to="none",
        push_to_hub=False,
        disable_tqdm=True,
    )


def _dataset(sequences: list[Encoded]) -> Dataset:
    return Dataset.from_dict(
        {"input_ids": [e.ids for e in sequences], "labels": [e.labels for e in sequences]}
    )


def _save(spec: Spec, wanted: SftHyperparameters, model: Any, tokenizer: PreTrainedTokenizerBase) -> float:
    assert spec.base_dir is not None
    if wanted.method == "lora":
        save_adapter(model, tokenizer, spec.output_dir)
        return float(check_parity(model, tokenizer, spec.base_dir, spec.output_dir))
    save_model(model, tokenizer, spec.output_dir)
    return float(check_parity(model, tokenizer, spec.output_dir))
