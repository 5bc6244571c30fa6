"""Queue entry of heads."""

from __future__ import annotations

from services.training.tasks.runs import TrainingRun
from shared.contracts.heads import RANKS, TrainHead
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def train_head(platform: Platform, ctx: JobContext, job: TrainHead) -> Outcome:
    """A classifier or a ranker, served at once when it is done."""
    run = TrainingRun(platform, ctx, job.name)
    base = job.base
    spec = {
        "kind": "head",
        "seed": job.seed,
        "choice": job.choice.model_dump(mode="json"),
        "data": run.inputs.data(job.training, job.validation),
        "base_dir": run.inputs.folder(base.base_artifact) if base else None,
        "adapter_dir": run.inputs.folder(base.adapter_artifact) if base and base.adapter_artifact else None,
        "hyperparameters": job.hyperparameters.model_dump(exclude_defaults=True),
    }
    kind = "ranker" if job.choice.head in RANKS else "classifier"
    return run.finish(
        run.train(spec),
        dataset_version=job.training.id,
        told={"kind": kind},
        base_id=base.model if base else None,
        kind=kind,
    )
