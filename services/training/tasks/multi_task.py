"""Queue entry of several tasks on one trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.training.tasks.runs import Made, TrainingRun
from shared.contracts.heads import RANKS
from shared.contracts.multi_task import TaskPart, TrainMultiTask, model_name
from shared.job_context import JobContext, Outcome
from shared.worker import Platform

# What the models of one run have in common.
_OF_ALL = ("temperature", "trainable_parameters", "best_step")


def train_multi_task(platform: Platform, ctx: JobContext, job: TrainMultiTask) -> Outcome:
    """A head for each task on a trunk that all have taught; each is a model of its own when the job has ended."""
    run = TrainingRun(platform, ctx, job.name)
    adapter = job.base.adapter_artifact
    spec = {
        "kind": "multi_task",
        "seed": job.seed,
        "method": job.method,
        "data": {},
        "parts": [_part(run, job, part) for part in job.parts],
        "base_dir": run.inputs.folder(job.base.base_artifact),
        "adapter_dir": run.inputs.folder(adapter) if adapter else None,
        "hyperparameters": job.hyperparameters.model_dump(exclude_defaults=True),
    }
    trained = run.train(spec)
    made = [_made(Path(trained["output_dir"]), trained["data"], job, part) for part in job.parts]
    models = {part.name: one.name for part, one in zip(job.parts, made, strict=True)}
    return run.finish_all(trained, made, {"kind": "multi_task", "models": models})


def _part(run: TrainingRun, job: TrainMultiTask, part: TaskPart) -> dict[str, Any]:
    return {
        "name": part.name,
        "choice": part.choice(job.method).model_dump(mode="json"),
        "weight": part.weight,
        "settings": part.settings.model_dump(exclude_defaults=True),
        "data": run.inputs.data(part.training, part.validation),
    }


def _made(folder: Path, data: dict[str, Any], job: TrainMultiTask, part: TaskPart) -> Made:
    fellows = [model_name(job.name, other.name) for other in job.parts if other.name != part.name]
    shared = {name: data[name] for name in data if name in _OF_ALL}
    return Made(
        model_name(job.name, part.name),
        folder / part.name,
        part.training.id,
        {**data["tasks"][part.name], **shared, "shares_trunk_with": fellows},
        job.base.model,
        None,
        "ranker" if part.head in RANKS else "classifier",
        part.model_dump(mode="json", include={"training", "validation"}),
    )
