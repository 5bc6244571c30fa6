"""Queue entry of fine-tuning."""

from __future__ import annotations

from services.training.tasks.runs import TrainingRun
from shared.contracts.training import FineTune
from shared.errors import InvalidInput
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def fine_tune(platform: Platform, ctx: JobContext, job: FineTune) -> Outcome:
    """An adapter (LoRA) or a new base (full, or DoRA merged) from a base and conversations."""
    name = f"ft:{job.base.model}:{job.suffix or 'heliu'}:{ctx.job.id[-8:]}"
    run = TrainingRun(platform, ctx, name, job)
    spec = {
        "kind": "sft",
        "seed": job.seed,
        "data": run.data(job.training, job.validation),
        "base_dir": run.folder(job.base.base_artifact),
        "hyperparameters": job.hyperparameters.model_dump(exclude_unset=True),
    }
    if job.base.adapter_artifact is not None:
        raise InvalidInput(
            f"{job.base.model} is an adapter; tune its base instead (stacked adapters are not served)",
            param="model",
        )
    return run.finish(
        run.train(spec),
        dataset_version=job.training.id,
        base_id=job.base.model,
        base_artifact=job.base.base_artifact if job.hyperparameters.makes_adapter else None,
        named="fine_tuned_model",
    )
