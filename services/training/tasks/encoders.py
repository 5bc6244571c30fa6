"""Queue entry of sentence encoders."""

from __future__ import annotations

from services.training.tasks.runs import TrainingRun
from shared.contracts.encoders import TrainEncoder
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def train_encoder(platform: Platform, ctx: JobContext, job: TrainEncoder) -> Outcome:
    """A sentence encoder from scratch, served at once when it is done."""
    run = TrainingRun(platform, ctx, job.name)
    spec = {
        "kind": "encoder",
        "seed": job.seed,
        "data": run.inputs.data(job.training, job.validation),
        "hyperparameters": job.hyperparameters.model_dump(exclude_defaults=True),
    }
    return run.finish(
        run.train(spec), dataset_version=job.training.id, told={"kind": "encoder"}, kind="encoder"
    )
