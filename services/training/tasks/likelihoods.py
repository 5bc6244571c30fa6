"""Queue entry of likelihoods: how likely a model finds the answers that a run of an eval gives it."""

from __future__ import annotations

from pathlib import Path

from services.training.tasks.runs import TrainingRun
from shared.contracts.likelihood import MeasureLikelihood
from shared.contracts.training import DataRef
from shared.job_context import JobContext, Outcome
from shared.worker import Platform

OUTPUT = "likelihood.jsonl"


def measure_likelihood(platform: Platform, ctx: JobContext, job: MeasureLikelihood) -> Outcome:
    """The artifact of one line for each answer."""
    run = TrainingRun(platform, ctx, job.model.model)
    answers = DataRef(id="answers", kind="file", artifact=job.artifact)
    found = run.train(
        {
            "kind": "likelihood",
            "data": {"train": [], "validation": run.inputs.data(answers, answers)["validation"]},
            "base_dir": run.inputs.folder(job.model.base_artifact),
            "adapter_dir": run.inputs.folder(job.model.adapter_artifact)
            if job.model.adapter_artifact
            else None,
            "hyperparameters": {"count": job.count},
        }
    )
    with (Path(found["output_dir"]) / OUTPUT).open("rb") as source:
        artifact, _ = platform.artifacts.put(source)
    run.inputs.clean()
    return Outcome(result={"artifact": artifact, "answers": found["data"]["answers"]})
