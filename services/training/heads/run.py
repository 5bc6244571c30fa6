"""A head from rows to a folder that can be served: reads, checks, trains, measures on held-out rows, saves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoTokenizer

from services.training.checkpoint import Checkpoint, CheckpointStore, file_sha256, fingerprint, verify
from services.training.heads.examples import Example, labels_of, read_parts
from services.training.heads.lora import add_lora, merge_lora
from services.training.heads.losses import LossOptions
from services.training.heads.model import HeadModel
from services.training.heads.pace import pace_of
from services.training.heads.part import Part
from services.training.heads.results import facts_of, measured, saved
from services.training.heads.rows import features_of
from services.training.heads.trainer import HeadTrainer
from services.training.heads.trunk import Trunk, load_trunk, new_lstm
from services.training.hyperparameters import HeadHyperparameters, parse
from services.training.model_folder import prepare_torch
from services.training.run import Result, Run
from services.training.spec import Spec
from shared.contracts.heads import HeadChoice


def run(spec: Spec, run: Run) -> Result:
    """Train the head that `spec.choice` names and write it to `spec.output_dir`.

    Raises InvalidInput on bad data, model, hyperparameters or checkpoint; Stopped when asked to stop.
    """
    choice = spec.choice
    assert choice is not None
    wanted = parse(HeadHyperparameters, spec.hyperparameters)
    device = prepare_torch(spec.threads, spec.seed)
    mark = _fingerprint(spec, choice, wanted)
    resumed = verify(spec.resume_from, fingerprint=mark) if spec.resume_from else None

    with run.timed("load") as seen:
        training, held_out = read_parts(spec.data, choice, wanted.validation_share, spec.seed)
        labels = tuple(labels_of(training))
        trunk = _trunk(spec, choice, wanted, training, resumed, device)
        seen |= {"rows": len(training), "held_out": len(held_out), "labels": len(labels)}
    torch.manual_seed(spec.seed)
    model = HeadModel(trunk, len(labels) or 1, 0.0 if choice.method == "frozen" else wanted.dropout, device)
    _choose_trainable(model, choice, wanted)
    options = LossOptions(
        wanted.label_smoothing,
        wanted.focal_gamma,
        wanted.margin,
        wanted.contrastive_weight,
        wanted.contrastive_temperature,
    )
    with run.timed("tokenise") as seen:
        part = Part.of(model, choice, labels, training, held_out, options, spec.seed)
        seen["tokens"] = sum(part.training.lengths)
    if choice.method == "frozen":
        with run.timed("features"):
            for rows in (part.training, part.held_out):
                rows.features = features_of(model, rows, run)

    pace = pace_of(part.training, choice, wanted, trunk.width, spec.seed)
    store = CheckpointStore(spec.workdir / "checkpoints", mark, resumed=spec.resume_from)
    trainer = HeadTrainer(run, [part], pace, store)
    facts = {
        **facts_of(part),
        "trainable_parameters": trainer.trainable_parameters,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    run.event(
        f"training a {choice.head} head ({choice.method}, {choice.named_loss}) on {len(training):,} rows"
        + (f" of {len(labels)} labels" if labels else "")
        + f" for {pace.rhythm.schedule.total} steps",
        data={
            **facts,
            "batch_size": pace.batch_size,
            "learning_rate": pace.rhythm.learning_rate,
            "total_steps": pace.rhythm.schedule.total,
        },
    )
    if resumed:
        trainer.restore(resumed)
        run.event(f"resumed at step {trainer.step}")
    trainer.train()

    with run.timed("eval", step=trainer.step):
        figures = measured(run, part, trainer.step)
    with run.timed("save"):
        if choice.method == "lora":
            merge_lora(trunk, [model])
        parity = saved(part, spec.output_dir)
    return Result(
        str(spec.output_dir),
        trainer.trained_tokens,
        {
            **facts,
            "labels": list(labels),
            **trainer.ends,
            "epochs": trainer.epoch,
            "context_length": trunk.longest,
            **figures,
            "parity": parity,
            **{name: value for name, value in trainer.last_metrics.items() if name.startswith("train_")},
        },
    )


def _fingerprint(spec: Spec, choice: HeadChoice, wanted: HeadHyperparameters) -> str:
    weights = [
        path
        for folder in (spec.base_dir, spec.adapter_dir)
        if folder
        for path in folder.rglob("*.safetensors")
    ]
    facts = {
        "kind": spec.kind,
        "seed": spec.seed,
        "hyperparameters": wanted.identity(),
        "choice": choice.model_dump(),
        "base": sorted(file_sha256(path) for path in weights),
    }
    return fingerprint(facts, {"train": list(spec.data.train), "validation": list(spec.data.validation)})


def _trunk(
    spec: Spec,
    choice: HeadChoice,
    wanted: HeadHyperparameters,
    training: Sequence[Example],
    resumed: Checkpoint | None,
    device: torch.device,
) -> Trunk:
    torch.manual_seed(spec.seed)
    if choice.method == "lstm":
        known = AutoTokenizer.from_pretrained(resumed.path, local_files_only=True) if resumed else None
        return new_lstm([text for example in training for text in example.texts], wanted, known)
    assert spec.base_dir is not None
    return load_trunk(spec.base_dir, spec.adapter_dir, wanted, device)


def _choose_trainable(model: HeadModel, choice: HeadChoice, wanted: HeadHyperparameters) -> None:
    """Everything, the last layer alone, or that and LoRA matrices in every linear layer of the trunk."""
    if choice.method == "frozen":
        model.body.requires_grad_(False)
    elif choice.method == "lora":
        add_lora(model.trunk, [model], wanted.lora_r, wanted.lora_alpha)
