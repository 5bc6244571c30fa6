"""Queue entries of fine-tuning, on conversations and on preference pairs."""

from __future__ import annotations

from services.training.tasks.runs import TrainingRun
from shared.contracts.preferences import TunePreferences
from shared.contracts.training import FineTune
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def fine_tune(platform: Platform, ctx: JobContext, job: FineTune) -> Outcome:
    """An adapter (LoRA) or a new base (full, or DoRA merged) from a base and conversations."""
    return _tune(platform, ctx, job, "sft")


def tune_preferences(platform: Platform, ctx: JobContext, job: TunePreferences) -> Outcome:
    """An adapter (LoRA) or a new base (full) from a model and preference pairs."""
    return _tune(platform, ctx, job, "dpo")


def _tune(platform: Platform, ctx: JobContext, job: FineTune | TunePreferences, kind: str) -> Outcome:
    name = f"ft:{job.base.root}:{job.suffix or 'heliu'}:{ctx.job.id[-8:]}"
    run = TrainingRun(platform, ctx, name, job)
    spec = {
        "kind": kind,
        "seed": job.seed,
        "data": run.inputs.data(job.training, job.validation),
        **run.inputs.start(job.base),
        "hyperparameters": job.hyperparameters.model_dump(exclude_unset=True),
        "decoding": job.decoding.settings(),
    }
    adapter = job.hyperparameters.makes_adapter
    return run.finish(
        run.train(spec),
        dataset_version=job.training.id,
        base_id=job.base.root if adapter else job.base.model,
        base_artifact=job.base.base_artifact if adapter else None,
        named="fine_tuned_model",
    )
