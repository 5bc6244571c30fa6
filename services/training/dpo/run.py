"""A model tuned on preferences, from pairs to a folder that can be served: reads, trains, measures, saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from services.training import world
from services.training.checkpoint import verify
from services.training.dpo.encode import encode_pairs
from services.training.dpo.planning import arguments, as_tuned, learning_rate, make_plan
from services.training.dpo.rows import Pair, read_both
from services.training.dpo.trainer import PreferenceTrainer, Scores
from services.training.hyperparameters import DpoHyperparameters, parse
from services.training.model_folder import context_length, linear_layers, prepare_torch
from services.training.parity import Sample
from services.training.ranks.shares import held, load_once, settle
from services.training.ranks.unshard import as_one
from services.training.run import Result, Run, Stopped
from services.training.spec import Spec
from services.training.start import mark_of
from services.training.tuning.adapters import adapter_facts, lora_config, with_adapter
from services.training.tuning.plan import state_of
from services.training.tuning.saving import samples_of_checkpoints, save, whole
from services.training.tuning.shards import shard_on_cpu
from shared.contracts.early_stopping import check_watched

# Below this many parameters a model is trained on a CPU in minutes, and wants more looks at its data.
SMALL_MODEL = 50_000_000
VALIDATION_PAIRS = 256
_LONGEST = 4096


def run(spec: Spec, run: Run) -> Result:
    """Tune `spec.base_dir` on pairs and write an adapter (lora) or a whole model (full) to `spec.output_dir`.

    Raises InvalidInput on bad data, model, hyperparameters or checkpoint; Stopped when asked to stop.
    """
    wanted = parse(DpoHyperparameters, spec.hyperparameters)
    device = prepare_torch(spec.threads, spec.seed)
    # On how many processes a run goes on makes it no other run.
    mark = mark_of(spec, {name: value for name, value in wanted.identity().items() if name != "processes"})
    resumed = verify(spec.resume_from, fingerprint=mark) if spec.resume_from else None

    with run.timed("load") as seen:
        rows, others = read_both(spec.data.train, spec.data.validation, spec.seed)
        options: dict[str, Any] = {"dtype": torch.float32} if wanted.method == "full" else {}
        model, tokenizer = load_once(spec, device, merge=wanted.method == "full", **options)
        seen |= {"pairs": len(rows), **held(model)}
    parameters, room = model.num_parameters(), min(wanted.max_length or _LONGEST, context_length(model))
    with run.timed("tokenise") as seen:
        pairs, long = encode_pairs(tokenizer, rows, room, "training_file")
        others = [others[i] for i in sorted(_watched(len(others), spec.seed))]
        held_out, long_too = encode_pairs(tokenizer, others, room, "validation_file")
        check_watched(wanted, bool(held_out))
        seen["tokens"] = tokens = sum(p.tokens for p in pairs)
    if long + long_too:
        run.event(f"{long + long_too} pairs are over {room} tokens and were left out", "warn")

    small = parameters < SMALL_MODEL
    like_tuned = as_tuned(wanted)
    torch.manual_seed(spec.seed)
    adapter = None
    if wanted.method == "lora":
        if spec.adapter_dir is None:
            adapter = lora_config(like_tuned, linear_layers(model), small=small)
        model = with_adapter(model, adapter, spec, like_tuned)
    settle(model)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = state_of(resumed)
    kept = state.get("kept", {})
    plan, chosen = make_plan(run, spec, wanted, pairs, model, device, trainable, kept, small=small)
    plan.whole = len(held_out) < VALIDATION_PAIRS
    plan.keep(spec, wanted, mark, resumed, watched=bool(held_out))
    samples = _samples(others or rows)
    plan.samples = samples_of_checkpoints(spec, like_tuned, tokenizer, samples)
    peak = learning_rate(wanted, model) * wanted.learning_rate_multiplier
    told = {
        "method": wanted.method,
        "loss": wanted.loss,
        "beta": wanted.beta,
        "trainable_parameters": trainable,
        "pairs": len(pairs),
        "held_out_pairs": len(held_out),
        **adapter_facts(model),
    }
    run.event(
        f"tuning {trainable:,} of {parameters:,} parameters on {len(pairs):,} preference pairs ({tokens:,} tokens) "
        f"by {wanted.loss}, beta {wanted.beta:g}, for {plan.schedule.total} steps",
        data={
            **told,
            "tokens": tokens,
            "batch_size": plan.batch_size,
            "learning_rate": peak,
            "total_steps": plan.schedule.total,
            "gradient_accumulation_steps": chosen.parts,
            "gradient_checkpointing": chosen.checkpointing,
            "precision": chosen.precision,
            "processes": chosen.processes,
            "reasons": chosen.reasons,
        },
    )
    settings = arguments(spec, wanted, chosen, peak, device, model)
    if chosen.processes > 1 and device.type == "cpu":
        shard_on_cpu()
    trainer = PreferenceTrainer(
        plan=plan,
        pairs=pairs,
        held_out=held_out,
        model=model,
        args=settings,
        processing_class=tokenizer,
    )
    if resumed:
        plan.restore(state, resumed.metrics)
        run.event(f"resumed at step {resumed.step}")
    trainer.train(as_one(resumed.path, spec.workdir) if resumed else None)
    step = trainer.state.global_step
    if trainer.left:
        raise Stopped(run.stop_reason or "drain", step)
    trainer.keep()

    measured = {}
    if held_out:
        with run.timed("eval", step=step):
            measured = _measured(run, trainer.before, trainer.scores(held_out), wanted.beta)
    with run.timed("save"):
        model = whole(trainer, model, spec, like_tuned, adapter)
        if world.rank() == 0:
            save(run, spec, like_tuned, model, tokenizer, samples)
    return Result(
        str(spec.output_dir),
        plan.tokens_of(step),
        {**told, "steps": step, "epochs": plan.epoch(step), **measured, **plan.last_metrics, **plan.ends},
    )


def _watched(count: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).permutation(count)[:VALIDATION_PAIRS]]


def _samples(pairs: Sequence[Pair]) -> list[Sample]:
    return [Sample((*pair.prompt, pair.chosen)) for pair in pairs[:8]]


def _measured(run: Run, before: Scores, after: Scores, beta: float) -> dict[str, Any]:
    """`held_out` and `baseline`: of how many pairs the better answer is the likelier one, for the tuned model and for
    the one before; and how far the tuned one has moved towards the better ones (reward, of chance one half)."""
    margins = beta * ((after[:, 0] - before[:, 0]) - (after[:, 1] - before[:, 1]))
    found = {
        "preference_accuracy": _accuracy(after),
        "reward_accuracy": float((margins > 0).mean() + (margins == 0).mean() / 2),
        "reward_margin": float(margins.mean()),
        "pairs": float(len(after)),
    }
    baseline = {"name": "the model before", "preference_accuracy": _accuracy(before), "reward_accuracy": 0.5}
    run.event(
        f"held out: {found['preference_accuracy']:.3f} of {len(after)} pairs the right way round, and "
        f"{baseline['preference_accuracy']:.3f} by {baseline['name']}",
        data={"held_out": found, "baseline": baseline},
    )
    return {"held_out": found, "baseline": baseline}


def _accuracy(scores: Scores) -> float:
    better, worse = scores[:, 0], scores[:, 1]
    return float((better > worse).mean() + (better == worse).mean() / 2)
