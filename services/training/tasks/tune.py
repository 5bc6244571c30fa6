"""Queue entry of fine-tuning."""

from __future__ import annotations

from services.training.tasks.runs import TrainingRun
from shared.contracts.training import FineTune
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def fine_tune(platform: Platform, ctx: JobContext, job: FineTune) -> Outcome:
    """An adapter (LoRA) or a new base (full, or DoRA merged) from a base and conversations."""
    name = f"ft:{job.base.root}:{job.suffix or 'heliu'}:{ctx.job.id[-8:]}"
    run = TrainingRun(platform, ctx, name, job)
    spec = {
        "kind": "sft",
        "seed": job.seed,
        "data": run.inputs.data(job.training, job.validation),
        **run.inputs.start(job.base),
        "hyperparameters": job.hyperparameters.model_dump(exclude_unset=True),
    }
    adapter = job.hyperparameters.makes_adapter
    return run.finish(
        run.train(spec),
        dataset_version=job.training.id,
        base_id=job.base.root if adapter else job.base.model,
        base_artifact=job.base.base_artifact if adapter else None,
        named="fine_tuned_model",
    )
