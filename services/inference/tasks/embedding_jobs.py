"""Queue entry of vectors that nobody waits for: those of the texts of a vector store's file."""

from __future__ import annotations

import io
import json
import time
from functools import partial

from services.inference import repository
from services.inference.embed_run import EmbedRun
from services.inference.engine_process import EngineProcess
from services.inference.tasks.placed import asking
from shared import semconv
from shared.contracts.retrieval import EmbedTexts
from shared.job_context import JobContext, Outcome
from shared.worker import Platform


def embed_texts(platform: Platform, engine: EngineProcess, ctx: JobContext, job: EmbedTexts) -> Outcome:
    """All vectors, or none: texts of one job are few, and embedding them again makes the same artifact."""
    import numpy as np  # as in embed_run

    began = time.monotonic()
    with platform.artifacts.open(job.artifact) as source:
        texts = [json.loads(line) for line in source.read().splitlines()]
    attributes = {
        semconv.GEN_AI_OPERATION: "embeddings",
        semconv.GEN_AI_REQUEST_MODEL: job.model.name,
        semconv.TENANT: str(ctx.job.tenant_id),
    }
    with (
        platform.tracing.span(
            f"embeddings {job.model.name}", parent=ctx.span.traceparent, attributes=attributes
        ) as span,
        asking(platform, engine, job.model, "embeddings", parent=span.traceparent) as (known, _),
    ):
        common = {"tenant": str(ctx.job.tenant_id), "priority": "batch", **known}
        run = EmbedRun(engine, f"{ctx.job.id}:{ctx.job.epoch}", job.model.encoder, common)
        found = run.embed(texts, ctx, lambda done: ctx.progress(done=done, total=len(texts)))
        span.set_all({semconv.GEN_AI_INPUT_TOKENS: found.tokens})
    seconds = time.monotonic() - began
    platform.metrics.tokens.labels(job.model.name, "input").inc(found.tokens)
    target = io.BytesIO()
    np.save(target, found.vectors, allow_pickle=False)
    artifact, _ = platform.artifacts.put(io.BytesIO(target.getvalue()))
    return Outcome(
        result={
            "artifact": artifact,
            "texts": len(texts),
            "dimensions": int(found.vectors.shape[1]),
            "tokens": found.tokens,
            "cut": found.cut,
        },
        write=partial(
            repository.add_embedding_usage,
            job=ctx.job,
            model=job.model,
            pool=platform.settings.pool,
            tokens=found.tokens,
            seconds=seconds,
        ),
    )
