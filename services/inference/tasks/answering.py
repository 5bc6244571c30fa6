"""One request for an answer through the engine: tokens as they come, spans, and the whole; live and for jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from services.inference.choices import Choices, calls, index_of
from services.inference.engine_process import EngineProcess
from services.inference.tasks.placed import asking
from shared import semconv
from shared.contracts.generation_config import shown_settings
from shared.contracts.inference import Generate
from shared.errors import HeliuError
from shared.frames import Frame
from shared.worker import Platform


def answer(
    platform: Platform,
    engine: EngineProcess,
    call: Generate,
    *,
    name: str,
    tenant: str,
    priority: Literal["live", "batch"],
    parent: str | None,
    start_s: float | None,
    cancelled: Callable[[], bool],
    say: Callable[[dict[str, Any]], None],
    repeatable: bool = False,
) -> dict[str, Any]:
    """What `Choices` puts together, `say` having had its tokens. Raises HeliuError with the engine's code.

    Where it is `repeatable`, tokens are said one by one, so that readers of another attempt at the answer go on.
    Once it is `cancelled`, choices that had not ended end with that reason.
    """
    operation = "chat" if call.messages else "text_completion"
    with (
        platform.tracing.span(
            f"{operation} {call.model.name}",
            parent=parent,
            attributes={
                semconv.GEN_AI_OPERATION: operation,
                semconv.GEN_AI_REQUEST_MODEL: call.model.name,
                semconv.TENANT: tenant,
            },
        ) as span,
        asking(platform, engine, call.model, operation, parent=span.traceparent, start_s=start_s) as (
            known,
            remote,
        ),
    ):
        answers = Choices(call)
        # A chat in the background may be computed with batches, and has readers all the same.
        common = {"tenant": tenant, "priority": priority, "stream": True, **known}
        if repeatable and not call.model.upstream:
            common["token_by_token"] = True
        asked = engine.submit(calls(name, call, common))
        try:
            for frame in asked.frames():
                if cancelled():
                    asked.cancel()
                if frame is None:
                    continue
                if frame["type"] == "error":
                    raise HeliuError(
                        frame["message"],
                        code=frame["code"],
                        param=frame.get("param"),
                        retryable=frame["retryable"],
                    )
                if frame["type"] == "token":
                    say(_token_entry(frame))
                else:
                    _record(platform, span.traceparent, frame)
                    remote.heard(frame)
                    if not answers.take(frame) and len(answers) > 1:
                        # One of several has ended: its client need not wait for the others to know.
                        ended = {"choice": index_of(frame["id"]), "text": "", "tokens": 0}
                        say({**ended, "finish_reason": frame["finish_reason"]})
        except HeliuError:
            # What one choice fails of, the others would; nobody waits for them any more.
            asked.cancel()
            raise
        result = answers.result()
        usage = result["usage"]
        spent = {
            semconv.GEN_AI_INPUT_TOKENS: usage["prompt_tokens"],
            semconv.GEN_AI_OUTPUT_TOKENS: usage["completion_tokens"],
            semconv.GEN_AI_FINISH_REASONS: [choice["finish_reason"] for choice in result["choices"]],
            semconv.MODEL_DECODING: shown_settings(result.get("decoding") or {}),
        }
        span.set_all(spent)
        remote.set_all(spent)
        platform.metrics.tokens.labels(call.model.name, "input").inc(usage["prompt_tokens"])
        platform.metrics.tokens.labels(call.model.name, "output").inc(usage["completion_tokens"])
        return result


def observe(platform: Platform, model: str, result: dict[str, Any]) -> None:
    """Count how long who waited for this answer waited."""
    metrics, usage, timings = platform.metrics, result["usage"], result["timings"]
    if timings.get("first_token_s") is not None:
        metrics.first_token.labels(model).observe(timings["first_token_s"])
    if usage["completion_tokens"] > 1:
        metrics.per_token.labels(model).observe(timings["decode_s"] / (usage["completion_tokens"] - 1))


def _token_entry(frame: Frame) -> dict[str, Any]:
    entry = {"choice": index_of(frame["id"]), "text": frame["text"], "tokens": frame["tokens"]}
    return entry | {name: value for name, value in frame.items() if name in ("logprobs", "tool_calls")}


def _record(platform: Platform, parent: str | None, done: Frame) -> None:
    for part in done.get("spans", ()):
        platform.tracing.record(
            part["name"],
            part["start_ns"],
            part["end_ns"],
            parent=parent,
            attributes=part.get("attributes"),
            # Decoding begins with the first token, which the prefill gave.
            events=[("first_token", part["start_ns"])] if part["name"] == "engine.decode" else (),
        )
