"""Several tasks on one trunk, from rows to a folder a task: reads, checks, trains, measures each, saves each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.training.checkpoint import CheckpointStore, file_sha256, fingerprint, verify
from services.training.heads.examples import labels_of, read_parts
from services.training.heads.lora import add_lora, merge_lora
from services.training.heads.losses import LossOptions
from services.training.heads.model import HeadModel
from services.training.heads.pace import LAYER_FACTOR, learning_rate, ordered_rows
from services.training.heads.part import Part
from services.training.heads.results import facts_of, measured, saved
from services.training.heads.trainer import HeadTrainer
from services.training.heads.trunk import Trunk, load_trunk
from services.training.hyperparameters import HeadHyperparameters, MultiTaskHyperparameters, parse
from services.training.model_folder import prepare_torch
from services.training.multitask.mix import Mix, rows_of_tasks, shares, steps_of
from services.training.plan import Rhythm
from services.training.run import Result, Run
from services.training.spec import PartSpec, Spec
from shared.errors import InvalidInput

# Rows that all epochs together should come to, the fewest and the most epochs, where nothing is asked for.
_ROWS, _FEWEST, _MOST = 32_000, 3, 20


def run(spec: Spec, run: Run) -> Result:
    """Train all of `spec.parts` on one trunk; each has a folder of its own in `spec.output_dir`, by its name.

    Raises InvalidInput on bad data, model, hyperparameters or checkpoint; Stopped when asked to stop.
    """
    wanted = parse(MultiTaskHyperparameters, spec.hyperparameters)
    device = prepare_torch(spec.threads, spec.seed)
    mark = _fingerprint(spec, wanted)
    resumed = verify(spec.resume_from, fingerprint=mark) if spec.resume_from else None

    assert spec.base_dir is not None
    assert spec.method is not None
    with run.timed("load"):
        trunk_wants = HeadHyperparameters(max_length=wanted.max_length)
        trunk = load_trunk(spec.base_dir, spec.adapter_dir, trunk_wants, device)
    torch.manual_seed(spec.seed)
    with run.timed("tokenise") as seen:
        parts = [_part(one, trunk, wanted, spec.seed, device) for one in spec.parts]
        seen["rows"] = sum(len(part.training) for part in parts)
    if spec.method == "lora":
        add_lora(trunk, [part.model for part in parts], wanted.lora_r, wanted.lora_alpha)
    pace = mix_of(parts, spec.method, wanted, trunk.width, spec.seed)
    store = CheckpointStore(spec.workdir / "checkpoints", mark, resumed=spec.resume_from)
    trainer = HeadTrainer(run, parts, pace, store)
    facts = {
        "method": spec.method,
        "temperature": wanted.temperature,
        "trainable_parameters": trainer.trainable_parameters,
        "rows": sum(len(part.training) for part in parts),
        "held_out_rows": sum(len(part.held_out) for part in parts),
    }
    drawn = shares([len(part.training) for part in parts], wanted.temperature)
    run.event(
        f"training {len(parts)} tasks on one trunk ({spec.method}) for {pace.rhythm.schedule.total} steps: "
        + ", ".join(f"{p.name} {s:.0%}" for p, s in zip(parts, drawn, strict=True)),
        data={
            **facts,
            "batch_size": pace.batch_size,
            "learning_rate": pace.rhythm.learning_rate,
            "total_steps": pace.rhythm.schedule.total,
            "shares": {part.name: float(share) for part, share in zip(parts, drawn, strict=True)},
        },
    )
    if resumed:
        trainer.restore(resumed)
        run.event(f"resumed at step {trainer.step}")
    trainer.train()

    told: dict[str, dict[str, Any]] = {}
    with run.timed("eval", step=trainer.step):
        for part in parts:
            told[part.name] = {**facts_of(part), "labels": list(part.labels), "weight": part.weight}
            told[part.name] |= measured(run, part, trainer.step)
    with run.timed("save"):
        if spec.method == "lora":
            merge_lora(trunk, [part.model for part in parts])
        for number, part in enumerate(parts):
            parity = saved(part, spec.output_dir / part.name)
            told[part.name] |= {
                "steps": int((pace.tasks[: trainer.step] == number).sum()),
                "context_length": trunk.longest,
                "parity": parity,
            }
    return Result(
        str(spec.output_dir),
        trainer.trained_tokens,
        {
            **facts,
            **trainer.ends,
            "epochs": trainer.epoch,
            "tasks": told,
            "valid_loss": sum(p.weight * told[p.name]["held_out"]["loss"] for p in parts)
            / sum(p.weight for p in parts),
            "train_loss": trainer.last_metrics["train_loss"],
        },
    )


def _part(
    wants: PartSpec, trunk: Trunk, wanted: MultiTaskHyperparameters, seed: int, device: torch.device
) -> Part:
    """Raises InvalidInput that says which task's rows are at fault."""
    try:
        training, held_out = read_parts(wants.data, wants.choice, wanted.validation_share, seed)
        labels = tuple(labels_of(training))
        model = HeadModel(trunk, len(labels) or 1, wanted.dropout, device)
        # Checked where the job was accepted: each is a number that its loss knows.
        options = replace(LossOptions(), **wants.settings)  # type: ignore[arg-type]
        return Part.of(
            model,
            wants.choice,
            labels,
            training,
            held_out,
            options,
            seed,
            name=wants.name,
            weight=wants.weight,
        )
    except InvalidInput as exc:
        raise InvalidInput(
            f"task {wants.name!r}: {exc.message}", code=exc.code, param=f"tasks.{wants.name}.{exc.param}"
        ) from exc


def mix_of(parts: list[Part], method: str, wanted: MultiTaskHyperparameters, width: int, seed: int) -> Mix:
    """The whole run's steps, chosen from the parts' sizes where nothing is asked for."""
    sizes = [len(part.training) for part in parts]
    count = sum(sizes)
    batch_size = wanted.batch_size or min(32, max(4, min(sizes) // 8))
    epochs = wanted.n_epochs or max(_FEWEST, min(_MOST, round(_ROWS / count)))
    steps = max(len(parts), -(-epochs * count // batch_size))
    if wanted.max_steps is not None:
        steps = wanted.max_steps if wanted.n_epochs is None else min(steps, wanted.max_steps)
    tasks, places = steps_of(sizes, wanted.temperature, steps, seed)

    def ordered(task: int, epochs: int) -> npt.NDArray[np.int64]:
        part = parts[task]
        return ordered_rows(part.training, part.choice, epochs, batch_size, seed + task)

    return Mix(
        batch_size,
        Rhythm.of(wanted, steps, learning_rate(method, width)),
        LAYER_FACTOR,
        wanted.weight_decay,
        tasks,
        places,
        rows_of_tasks(sizes, tasks, batch_size, ordered),
    )


def _fingerprint(spec: Spec, wanted: MultiTaskHyperparameters) -> str:
    folders = [folder for folder in (spec.base_dir, spec.adapter_dir) if folder]
    facts = {
        "kind": spec.kind,
        "seed": spec.seed,
        "method": spec.method,
        "hyperparameters": wanted.identity(),
        "tasks": [part.model_dump(mode="json", exclude={"data"}) for part in spec.parts],
        "base": sorted(file_sha256(path) for folder in folders for path in folder.rglob("*.safetensors")),
    }
    files = {
        f"{part.name}.{split}": list(getattr(part.data, split))
        for part in spec.parts
        for split in ("train", "validation")
    }
    return fingerprint(facts, files)
