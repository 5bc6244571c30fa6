"""Queue entry of pretraining."""

from __future__ import annotations

from services.training.tasks.runs import TrainingRun
from shared.contracts.training import Pretrain
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def pretrain(platform: Platform, ctx: JobContext, job: Pretrain) -> Outcome:
    """A base from scratch; a finished base can be served and tuned at once."""
    run = TrainingRun(platform, ctx, job.name)
    spec = {
        "kind": "pretrain",
        "seed": job.seed,
        "data": run.data(job.data, None),
        "hyperparameters": job.hyperparameters.model_dump(exclude_defaults=True),
    }
    return run.finish(run.train(spec), dataset_version=job.data.id)
