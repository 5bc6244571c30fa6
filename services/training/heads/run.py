"""A head from rows to a folder that can be served: reads, checks, trains, measures on held-out rows, saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from transformers import AutoTokenizer

from services.training.checkpoint import Checkpoint, CheckpointStore, file_sha256, fingerprint, verify
from services.training.dataset import is_version
from services.training.heads.examples import Example, check, hold_out, labels_of, read_examples
from services.training.heads.losses import LossOptions, make_loss
from services.training.heads.model import HeadModel, check_parity, save_head
from services.training.heads.pace import pace_of
from services.training.heads.rows import features_of, rows_of, scale_of
from services.training.heads.scoring import MAIN, label_counts, yardstick
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
        training, held_out = _read(spec, choice, wanted)
        labels = tuple(labels_of(training))
        trunk = _trunk(spec, choice, wanted, training, resumed, device)
        seen |= {"rows": len(training), "held_out": len(held_out), "labels": len(labels)}
    torch.manual_seed(spec.seed)
    model = HeadModel(trunk, len(labels) or 1, 0.0 if choice.method == "frozen" else wanted.dropout, device)
    _choose_trainable(model, choice, wanted)
    scale = scale_of(training, choice)
    with run.timed("tokenise") as seen:
        rows = rows_of(training, trunk, choice, labels, scale, device)
        watched = rows_of(held_out, trunk, choice, labels, scale, device)
        seen["tokens"] = sum(rows.lengths)
    if choice.method == "frozen":
        with run.timed("features"):
            for part in (rows, watched):
                part.features = features_of(model, part, run)

    pace = pace_of(rows, choice, wanted, trunk.width, spec.seed)
    measure = yardstick(training, choice.head, labels, spec.seed)
    options = LossOptions(
        wanted.label_smoothing,
        wanted.focal_gamma,
        wanted.margin,
        label_counts(training, labels) if labels else (),
        len(training),
    )
    trainer = HeadTrainer(
        run,
        model,
        rows,
        watched,
        make_loss(choice.head, choice.named_loss, options),
        measure,
        pace,
        CheckpointStore(spec.workdir / "checkpoints", mark, resumed=spec.resume_from),
        scale if choice.head == "regression" else (1.0, 0.0),
    )
    facts = {
        "head": choice.head,
        "method": choice.method,
        "loss": choice.named_loss,
        "trainable_parameters": trainer.trainable_parameters,
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": len(training),
        "held_out_rows": len(held_out),
    }
    run.event(
        f"training a {choice.head} head ({choice.method}, {choice.named_loss}) on {len(training):,} rows"
        + (f" of {len(labels)} labels" if labels else "")
        + f" for {pace.schedule.total} steps",
        data={
            **facts,
            "batch_size": pace.batch_size,
            "learning_rate": pace.learning_rate,
            "total_steps": pace.schedule.total,
        },
    )
    if resumed:
        trainer.restore(resumed)
        run.event(f"resumed at step {trainer.step}")
    trainer.train()

    with run.timed("eval", step=trainer.step):
        figures, loss = trainer.evaluate()
        baseline = measure.baseline(held_out)
    main = MAIN[choice.head]
    run.event(
        f"held out: {main} {figures[main]:.3f}, and {baseline[main]:.3f} by {baseline['name']}",
        data={"held_out": figures, "baseline": baseline},
    )
    with run.timed("save"):
        if choice.method == "lora":
            model.body = trunk.model.merge_and_unload()  # type: ignore[operator]
        factor, shift = scale if choice.head == "regression" else (1.0, 0.0)
        told = {"head": choice.head, "labels": list(labels), "loss": choice.named_loss}
        save_head(model, spec.output_dir, told, factor, shift)
        difference = check_parity(model, spec.output_dir, factor, shift)
    return Result(
        str(spec.output_dir),
        trainer.trained_tokens,
        {
            **facts,
            "labels": list(labels),
            "steps": trainer.step,
            "epochs": trainer.epoch,
            "context_length": trunk.longest,
            "held_out": {"loss": loss, **figures},
            "baseline": baseline,
            "parity_max_abs_difference": difference,
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
        "hyperparameters": asdict(wanted),
        "choice": choice.model_dump(),
        "base": sorted(file_sha256(path) for path in weights),
    }
    return fingerprint(facts, {"train": list(spec.data.train), "validation": list(spec.data.validation)})


def _read(spec: Spec, choice: HeadChoice, wanted: HeadHyperparameters) -> tuple[list[Example], list[Example]]:
    """(training, held out); without a validation file a part of the rows is held out."""
    training = read_examples(spec.data.train, "train", choice.head, "training_file")
    if spec.data.validation or any(is_version(path, "training_file") for path in spec.data.train):
        held_out = read_examples(spec.data.validation, "validation", choice.head, "validation_file")
    else:
        training, held_out = hold_out(training, wanted.validation_share, spec.seed)
    check(training, held_out, choice.head, choice.named_loss)
    return training, held_out


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
        from peft import LoraConfig, get_peft_model  # costs seconds, and only LoRA needs it

        rank = wanted.lora_r
        config = LoraConfig(
            r=rank,
            lora_alpha=int(wanted.lora_alpha or 2 * rank),
            target_modules="all-linear",
            bias="none",
            task_type="FEATURE_EXTRACTION",
        )
        model.body = model.trunk.model = get_peft_model(model.trunk.model, config)
