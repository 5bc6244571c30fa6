"""References of a run, measured by the weights of the model that it asks: handed out, and laid beside the samples."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from services.training.evals.figures import LIKELIHOODS
from services.training.evals.items import Item
from services.training.evals.sampling import Sample
from services.training.repository import evals as repository
from services.training.tasks.eval_grading import Sampled
from shared.contracts.evals import PerplexityMetric, RunEval
from shared.contracts.likelihood import MeasureLikelihood
from shared.errors import HeliuError
from shared.job_context import JobContext
from shared.jobs import NewJob, Status
from shared.task.item_template import render_item
from shared.worker import Platform

ROLES = {"developer": "system"}


def hand_out(platform: Platform, ctx: JobContext, job: RunEval, sampled: Sampled) -> list[NewJob]:
    """One job for all references of all perplexities; none where the weights are not here."""
    if job.base is None:
        return []
    lines = [
        json.dumps({"messages": item_messages, "reference": reference}, ensure_ascii=False) + "\n"
        for item, sample in sampled()
        for item_messages, _, reference in _references(job, item, sample)
    ]
    if not lines:
        return []
    artifact, _ = platform.artifacts.put(io.BytesIO("".join(lines).encode()))
    contract = MeasureLikelihood(model=job.base, artifact=artifact, count=len(lines))
    return [ctx.part(contract, MeasureLikelihood.queue_for(job.pool))]


def added(
    platform: Platform, ctx: JobContext, job: RunEval, sampled: Sampled
) -> Iterator[tuple[Item, Sample]]:
    """Items and samples, with what was measured of them where it was."""
    ids = ctx.job.progress.get("measured") or []
    if not ids:
        yield from sampled()
        return
    with ctx.transaction() as connection:
        (part,) = repository.parts(connection, ctx.job.id, ids)
    if part["state"] != Status.SUCCEEDED.value:
        told = (part["error"] or {}).get("message", part["state"])
        ctx.event("message", f"the references could not be measured: {told}", level="warn")
        yield from sampled()
        return
    with platform.artifacts.open(part["result"]["artifact"]) as lines:
        for item, sample in sampled():
            found: dict[str, Any] = {
                name: json.loads(lines.readline()) for _, name, _ in _references(job, item, sample)
            }
            yield item, replace(sample, values={**sample.values, LIKELIHOODS: found})


def _references(job: RunEval, item: Item, sample: Sample) -> Iterator[tuple[list[Any], str, str]]:
    """(messages, metric, reference) of an item, in the same order whenever it is asked."""
    if not sample.asked or sample.error is not None:
        return
    messages = [
        {"role": ROLES.get(one["role"], one["role"]), "content": one["content"]} for one in sample.asked
    ]
    if any(one["role"] not in ("system", "user", "assistant") for one in messages):
        return
    values = {"item": item.item, "sample": sample.values}
    for metric in job.metrics:
        if isinstance(metric, PerplexityMetric):
            try:
                reference = render_item(metric.reference, values, metric.name)
            except HeliuError:
                continue
            if reference.strip():
                yield messages, metric.name, reference
