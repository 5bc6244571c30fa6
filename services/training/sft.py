"""Supervised fine-tuning on the assistant's answers with TRL: a LoRA adapter or every weight.

Rows are rendered, masked and ordered here (as they will be served); TRL's SFTTrainer does the rest. Its checkpoints
go through the project's own atomic folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.training import world
from services.training.checkpoint import verify
from services.training.dataset import Split, conversations, read_rows
from services.training.hyperparameters import SftHyperparameters, parse
from services.training.model_folder import context_length, linear_layers, prepare_torch
from services.training.parity import sample_rows
from services.training.ranks.shares import held, load_once, settle
from services.training.ranks.unshard import as_one
from services.training.run import Result, Run, Stopped
from services.training.sft_trainer import ReportingTrainer
from services.training.spec import Spec
from services.training.start import mark_of
from services.training.tokenizer import Encoded, encode_conversation
from services.training.tuning import attention, losses
from services.training.tuning.adapters import adapter_facts, lora_config, quantized, with_adapter
from services.training.tuning.arguments import arguments
from services.training.tuning.choices import choose
from services.training.tuning.machine import shape_of, this_machine
from services.training.tuning.plan import state_of
from services.training.tuning.planning import batch_size_for, dataset, make_plan
from services.training.tuning.probe import fits, fitted
from services.training.tuning.saving import samples_of_checkpoints, save, whole
from services.training.tuning.shards import compile_layers, shard_on_cpu
from shared.contracts.early_stopping import check_watched
from shared.errors import InvalidInput

# Below this many parameters a model is trained on a CPU in minutes, and wants high rates and many looks at its data.
SMALL_MODEL = 50_000_000
VALIDATION_SEQUENCES = 128
_LONGEST = 4096


def run(spec: Spec, run: Run) -> Result:
    """Fine-tune `spec.base_dir` and write an adapter (lora) or a whole model (full) to `spec.output_dir`.

    Raises InvalidInput on bad data, model, hyperparameters or checkpoint; Stopped when asked to stop.
    """
    wanted = parse(SftHyperparameters, spec.hyperparameters)
    device = prepare_torch(spec.threads, spec.seed)
    # On how many processes a run goes on makes it no other run.
    mark = mark_of(spec, {**wanted.identity(), "processes": None})
    resumed = verify(spec.resume_from, fingerprint=mark) if spec.resume_from else None
    state = state_of(resumed)

    with run.timed("load") as seen:
        model, tokenizer = load_once(spec, device, merge=wanted.method == "full", **_loading(wanted, device))
        seen.update(held(model))
        parameters = model.num_parameters()
    layers = linear_layers(model)
    small = parameters < SMALL_MODEL
    adapter = None
    if wanted.method == "lora" and spec.adapter_dir is None:
        adapter = lora_config(wanted, layers, small=small)
    with run.timed("tokenise") as seen:
        room = min(wanted.max_length or _LONGEST, context_length(model))
        training = _encode(spec, tokenizer, "train", room)
        held_out = _encode(spec, tokenizer, "validation", room)
        check_watched(wanted, bool(held_out))
        tokens = sum(len(e.ids) for e in training)
        seen |= {"sequences": len(training), "tokens": tokens}

    why_unpacked = None
    if wanted.packing is not False:
        if world.rank() == 0:
            why_unpacked = attention.unpackable(model, device, [e.ids for e in training])
        why_unpacked = world.told(why_unpacked)
    torch.manual_seed(spec.seed)
    if wanted.method == "lora":
        model = with_adapter(model, adapter, spec, wanted)
    settle(model)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    machine = this_machine(device, trainable, model)
    lengths = [len(e.ids) for e in training]
    batch_size = batch_size_for(wanted, lengths, machine.processes, small=small)
    chosen = choose(wanted, shape_of(model), machine, lengths, batch_size, why_unpacked)
    chosen = world.told(chosen.kept(state.get("kept", {})))
    if device.type == "cuda" and chosen.processes == 1 and not resumed:
        longest = max(lengths)
        chosen = fitted(run, chosen, longest, lambda tried: fits(model, tried, longest, trainable))
    plan, packs = make_plan(run, wanted, lengths, batch_size, chosen, spec.seed, small=small)
    plan.whole = len(held_out) < VALIDATION_SEQUENCES
    plan.keep(spec, wanted, mark, resumed, watched=bool(held_out))
    samples = sample_rows(spec)
    plan.samples = samples_of_checkpoints(spec, wanted, tokenizer, samples)
    peak = _learning_rate(wanted, model) * wanted.learning_rate_multiplier
    shape = adapter_facts(model)
    told = {
        "method": wanted.method,
        "loss": wanted.loss,
        "trainable_parameters": trainable,
        "sequences": len(training),
        "tokens": tokens,
        "batch_size": batch_size,
        "learning_rate": peak,
        "total_steps": plan.schedule.total,
        **shape,
    }
    run.event(
        f"fine-tuning {trainable:,} of {parameters:,} parameters on {len(training):,} sequences "
        f"({tokens:,} tokens) for {plan.schedule.total} steps",
        data=told,
    )
    ours = losses.takes(model)
    message, facts = chosen.told(ours_loss=ours)
    run.event(message, data=facts)
    if not ours and wanted.loss == "label_smoothing":
        raise InvalidInput(
            "label_smoothing is not there for models that scale or cap their logits; take another loss",
            param="hyperparameters.loss",
        )
    if chosen.packing:
        model.set_attn_implementation(attention.NAME)
    if chosen.compile:
        compile_layers(model)
    settings = arguments(spec, wanted, chosen, peak, device, held_out, model)
    if chosen.processes > 1 and device.type == "cpu":
        shard_on_cpu()
    trainer = ReportingTrainer(
        plan=plan,
        loss=losses.Loss(wanted.loss, wanted.label_smoothing) if ours else None,
        model=model,
        args=settings,
        train_dataset=dataset(training, packs, packed=chosen.packing),
        eval_dataset=dataset(held_out, [[i] for i in range(len(held_out))], packed=False)
        if held_out
        else None,
        processing_class=tokenizer,
    )
    if resumed:
        plan.restore(state, resumed.metrics)
        run.event(f"resumed at step {resumed.step}")
    trainer.train(as_one(resumed.path, spec.workdir) if resumed else None)
    if trainer.left:
        raise Stopped(run.stop_reason or "drain", trainer.state.global_step)
    step = trainer.state.global_step
    trainer.keep()

    with run.timed("save"):
        model = whole(trainer, model, spec, wanted, adapter)
        if world.rank() == 0:
            save(run, spec, wanted, model, tokenizer, samples)
    return Result(
        str(spec.output_dir),
        plan.tokens_of(step),
        {
            "method": wanted.method,
            "loss": wanted.loss,
            "steps": step,
            "epochs": plan.epoch(step),
            "trainable_parameters": trainable,
            **shape,
            **({} if wanted.makes_adapter else {"linear_layers": layers}),
            **plan.last_metrics,
            **plan.ends,
        },
    )


def _loading(wanted: SftHyperparameters, device: torch.device) -> Mapping[str, Any]:
    """Every weight is trained in float32, whatever it is stored in: steps are too small for fewer bits."""
    if wanted.method == "full":
        return {"dtype": torch.float32}
    return quantized(wanted.quantization, device)


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


def _learning_rate(wanted: SftHyperparameters, model: PreTrainedModel) -> float:
    """Auto: 2e-4 (LoRA) or 2e-5 (full) at a hidden size of 4096, higher for narrower models."""
    if wanted.learning_rate is not None:
        return wanted.learning_rate
    width = model.config.get_text_config().hidden_size
    narrow = max(1.0, 4096 / int(width))
    return float((2e-4 if wanted.method == "lora" else 2e-5) * narrow**0.75)
