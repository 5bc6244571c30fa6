"""Queue entry of tuning on preferences."""

from __future__ import annotations

from services.training.tasks.runs import TrainingRun
from shared.contracts.preferences import TunePreferences
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def tune_preferences(platform: Platform, ctx: JobContext, job: TunePreferences) -> Outcome:
    """An adapter (LoRA) or a new base (full) from a model and preference pairs."""
    name = f"ft:{job.base.root}:{job.suffix or 'heliu'}:{ctx.job.id[-8:]}"
    run = TrainingRun(platform, ctx, name, job)
    spec = {
        "kind": "dpo",
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
