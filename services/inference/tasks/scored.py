"""Queue entries of live requests for labels and for an order of documents."""

from __future__ import annotations

from typing import Any

from services.inference import scores
from services.inference.engine_process import EngineProcess
from services.inference.gathered import Gathered
from services.inference.tasks.placed import models_for_engine
from shared import semconv
from shared.contracts.scores import Classify, Rerank
from shared.errors import HeliuError
from shared.live_server import LiveContext
from shared.worker import Platform

# Results of one entry of the answer: some hundred labels each, at most.
PIECE = 64


def classify(platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Classify) -> dict[str, Any]:
    """Labels of texts, in entries of a few, then how many tokens they had."""
    result = _scored(platform, engine, ctx, call, scores.Labelled(call), "classify")
    results = result.pop("results")
    for start in range(0, len(results), PIECE):
        ctx.send("results", {"results": results[start : start + PIECE]})
    return result


def rerank(platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Rerank) -> dict[str, Any]:
    """A score for each document, and how many tokens they had with the query."""
    gathered = scores.Ranked(call, call.model.encoder)
    result = _scored(platform, engine, ctx, call, gathered, "rerank")
    ctx.send("results", {"results": result.pop("scores")})
    return result


def _scored(
    platform: Platform,
    engine: EngineProcess,
    ctx: LiveContext,
    call: Classify | Rerank,
    gathered: Gathered,
    operation: str,
) -> dict[str, Any]:
    model = call.model
    with platform.tracing.span(
        f"{operation} {model.name}",
        parent=ctx.span.traceparent,
        attributes={
            semconv.GEN_AI_OPERATION: operation,
            semconv.GEN_AI_REQUEST_MODEL: model.name,
            semconv.TENANT: ctx.tenant,
        },
    ) as span:
        common = {"tenant": ctx.tenant, "priority": "live", **models_for_engine(platform, engine, model)}
        name = f"{ctx.request}.{ctx.attempt}"
        asked = engine.submit(scores.calls(name, call, model.encoder, common))
        for frame in asked.frames():
            if ctx.cancelled.is_set():
                asked.cancel()
                raise HeliuError("whoever asked has gone", code="client_closed_request")
            if frame is None:
                continue
            if frame["type"] == "error":
                # Nobody waits for the others any more.
                asked.cancel()
                raise scores.failure(call, model.encoder, frame)
            gathered.take(frame)
        for part in gathered.spans():
            platform.tracing.record(
                part["name"],
                part["start_ns"],
                part["end_ns"],
                parent=span.traceparent,
                attributes=part["attributes"],
            )
        result = gathered.result()
        tokens = result["usage"]["prompt_tokens"]
        span.set_all({semconv.GEN_AI_INPUT_TOKENS: tokens})
        platform.metrics.tokens.labels(model.name, "input").inc(tokens)
        return result
