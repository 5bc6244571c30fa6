"""Queue entry of pretraining, from scratch and of a model that exists."""

from __future__ import annotations

from services.training.tasks.runs import TrainingRun
from shared.contracts.training import Pretrain
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def pretrain(platform: Platform, ctx: JobContext, job: Pretrain) -> Outcome:
    """A base, or an adapter where one is trained on; it can be served and tuned at once."""
    run = TrainingRun(platform, ctx, job.name)
    base = job.base
    spec = {
        "kind": "pretrain",
        "seed": job.seed,
        "data": run.inputs.data(job.data, job.validation),
        **(run.inputs.start(base) if base is not None else {}),
        "hyperparameters": job.hyperparameters.model_dump(exclude_defaults=True),
        "decoding": job.decoding.settings(),
    }
    adapter = base is not None and base.adapter_artifact is not None
    return run.finish(
        run.train(spec),
        dataset_version=job.data.id,
        base_id=None if base is None else base.root if adapter else base.model,
        base_artifact=base.base_artifact if base is not None and adapter else None,
    )
