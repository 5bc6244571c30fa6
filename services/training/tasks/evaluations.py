"""Queue entry of evaluations on held-out conversations."""

from __future__ import annotations

from services.training.tasks.runs import TrainingRun
from shared.contracts.training import Evaluate
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def evaluate(platform: Platform, ctx: JobContext, job: Evaluate) -> Outcome:
    """Greedy answers to held-out conversations, scored."""
    run = TrainingRun(platform, ctx, job.model.model)
    spec = {
        "kind": "evaluate",
        "seed": job.seed,
        "data": {"train": [], "validation": run.inputs.data(job.data, None)["validation"]},
        "base_dir": run.inputs.folder(job.model.base_artifact),
        "adapter_dir": run.inputs.folder(job.model.adapter_artifact) if job.model.adapter_artifact else None,
        "hyperparameters": {"limit": job.limit},
    }
    result = run.train(spec)
    run.inputs.clean()
    return Outcome(result={"model": job.model.model, "dataset": job.data.id, **result["data"]})
