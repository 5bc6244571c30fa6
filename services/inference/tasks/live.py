"""Queue entries of live requests: answers, vectors, tokens."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from services.inference import vectors
from services.inference.engine_process import EngineProcess
from services.inference.tasks import answering
from services.inference.tasks.placed import asking, models_for_engine
from shared import semconv
from shared.contracts.inference import (
    Detokenize,
    Embed,
    Generate,
    ModelRef,
    Tokenize,
)
from shared.errors import HeliuError
from shared.frames import Frame
from shared.live_server import LiveContext
from shared.worker import Platform


def generate(platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Generate) -> dict[str, Any]:
    """Live answers: tokens as they come, then the whole with its usage."""
    result = answering.answer(
        platform,
        engine,
        call,
        name=f"{ctx.request}.{ctx.attempt}",
        tenant=ctx.tenant,
        priority="live",
        parent=ctx.span.traceparent,
        start_s=_time_left(ctx),
        cancelled=ctx.cancelled.is_set,
        say=partial(ctx.send, "token"),
    )
    answering.observe(platform, call.model.name, result)
    return result


def embed(platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Embed) -> dict[str, Any]:
    """Vectors of texts, in entries of a few, then how many tokens they had."""
    with (
        platform.tracing.span(
            f"embeddings {call.model.name}",
            parent=ctx.span.traceparent,
            attributes={
                semconv.GEN_AI_OPERATION: "embeddings",
                semconv.GEN_AI_REQUEST_MODEL: call.model.name,
                semconv.TENANT: ctx.tenant,
            },
        ) as span,
        asking(
            platform, engine, call.model, "embeddings", parent=span.traceparent, start_s=_time_left(ctx)
        ) as (known, remote),
    ):
        made = vectors.Vectors(call)
        common = {"tenant": ctx.tenant, "priority": "live", **known}
        asked = engine.submit(vectors.calls(f"{ctx.request}.{ctx.attempt}", call, call.model.encoder, common))
        for frame in asked.frames():
            if ctx.cancelled.is_set():
                asked.cancel()
                raise HeliuError("whoever asked has gone", code="client_closed_request")
            if frame is None:
                continue
            if frame["type"] == "error":
                # Nobody waits for the others any more.
                asked.cancel()
                raise vectors.failure(call, frame)
            made.take(frame)
            remote.heard(frame)
        for part in made.spans():
            platform.tracing.record(
                part["name"],
                part["start_ns"],
                part["end_ns"],
                parent=span.traceparent,
                attributes=part["attributes"],
            )
        result = made.result()
        tokens = result["usage"]["prompt_tokens"]
        span.set_all({semconv.GEN_AI_INPUT_TOKENS: tokens})
        remote.set_all({semconv.GEN_AI_INPUT_TOKENS: tokens})
        platform.metrics.tokens.labels(call.model.name, "input").inc(tokens)
        for piece in vectors.pieces(result.pop("vectors")):
            ctx.send("vectors", {"vectors": piece})
        return result


def tokenize(platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Tokenize) -> dict[str, Any]:
    """Tokens of a text or of a chat."""
    given: dict[str, Any] = {"prompt": call.prompt, "add_special_tokens": call.add_special_tokens}
    if call.messages:
        given = {
            "messages": [message.model_dump(mode="json") for message in call.messages],
            "tools": [tool.model_dump(mode="json") for tool in call.tools],
            "add_generation_prompt": call.add_generation_prompt,
        }
    return _beside(platform, engine, ctx, call.model, {"op": "tokenize", "texts": call.token_strs, **given})


def detokenize(
    platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Detokenize
) -> dict[str, Any]:
    """The text of tokens."""
    frame = {"op": "detokenize", "tokens": list(call.tokens)}
    return _beside(platform, engine, ctx, call.model, frame)


def _beside(
    platform: Platform, engine: EngineProcess, ctx: LiveContext, model: ModelRef, frame: Frame
) -> dict[str, Any]:
    """One frame and its answer, with a span."""
    with platform.tracing.span(
        f"{frame['op']} {model.name}",
        parent=ctx.span.traceparent,
        attributes={semconv.GEN_AI_REQUEST_MODEL: model.name, semconv.TENANT: ctx.tenant},
    ):
        name = f"{ctx.request}.{ctx.attempt}.0"
        known = models_for_engine(platform, engine, model)
        asked = engine.submit([{"id": name, **known, "encoder": model.read_as_encoder, **frame}])
        (answer,) = [told for told in asked.frames() if told is not None]
        if answer["type"] == "error":
            raise HeliuError(
                answer["message"],
                code=answer["code"],
                param=answer.get("param"),
                retryable=answer["retryable"],
            )
        return {key: value for key, value in answer.items() if key not in ("type", "id")}


def _time_left(ctx: LiveContext) -> float:
    """Seconds until the request must be in work somewhere."""
    return max(0.1, ctx.deadline - time.time())
