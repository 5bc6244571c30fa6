"""What one live answer leaves behind, however it ends: its row in the ledger, and what its spans say of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

from fastapi import Request

from services.gateway.answering.answers import Answer
from services.gateway.answering.guarded import Guarded
from services.gateway.answering.usage import UsageRow
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from shared import semconv
from shared.contracts.generation_config import shown_settings
from shared.contracts.inference import ModelRef
from shared.contracts.model_registry import ReleaseUsed
from shared.task.bind import TaskVersion


class Ledger:
    """Writes the one usage row of a request, however it ends."""

    def __init__(
        self,
        gateway: Gateway,
        request: Request,
        answer: Answer,
        ref: ModelRef,
        task: TaskVersion | None,
        guarded: Guarded | None,
        used: ReleaseUsed | None = None,
    ) -> None:
        state = request.state
        caller: Caller = state.caller
        self._gateway = gateway
        self._span = state.span
        self._answer = answer
        self._guarded = guarded
        self._metadata = (task.metadata if task else {}) | (used.metadata if used else {})
        self._row = UsageRow(
            tenant_id=caller.tenant,
            api_key_id=caller.key_id,
            request_id=state.request_id,
            endpoint=answer.endpoint,
            model=ref.name,
            model_artifact=ref.adapter_artifact or ref.base_artifact,
            pool=gateway.settings.pool,
            status="cancelled",
            prompt_tokens=0,
            completion_tokens=0,
            seconds=0.0,
            first_token_seconds=None,
            trace_id=state.trace_id,
            metadata=json.dumps(self._metadata),
            answer_id=answer.id,
        )

    def dump(self) -> dict[str, Any]:
        """The row as far as it is known, for whoever takes the answer up again."""
        return {**asdict(self._row), "tenant_id": str(self._row.tenant_id)}

    def close(self, status: str, *, answered: bool = False) -> None:
        """`status` is ok, error or cancelled; `answered` where the request, and so its span, has ended before."""
        answer, metadata = self._answer, self._metadata
        if self._guarded is not None:
            self._guarded.record(self._gateway.platform.tracing, self._span.traceparent)
            metadata = {**metadata, **refusals(self._guarded)}
        metadata = {**metadata, **decided(answer)}
        if not answered:
            self._span.set_all(
                {
                    semconv.MODEL_DECODING: shown_settings(answer.decoding),
                    semconv.GEN_AI_REQUEST_MODEL: answer.model,
                    semconv.GEN_AI_INPUT_TOKENS: answer.counts["prompt_tokens"],
                    semconv.GEN_AI_OUTPUT_TOKENS: answer.counts["completion_tokens"],
                }
            )
        self._gateway.usage.add(
            replace(
                self._row,
                status=status,
                prompt_tokens=answer.counts["prompt_tokens"],
                completion_tokens=answer.counts["completion_tokens"],
                seconds=answer.seconds,
                first_token_seconds=answer.first_token_s,
                metadata=json.dumps(metadata),
            )
        )


def refusals(guarded: Guarded) -> dict[str, str]:
    """What the ledger says of the guards that ended a choice."""
    return {"refused_by": ", ".join(guarded.refused)} if guarded.refused else {}


def decided(answer: Answer) -> dict[str, Any]:
    """What the ledger says of decoding settings that were the model's own."""
    return {"decoding": dict(answer.decoding)} if answer.decoding else {}


def taken_up(dumped: dict[str, Any], answer: Answer, guarded: Guarded | None, seconds: float) -> UsageRow:
    """The row of an answer that whoever began it may not live to write; the fuller of two rows stays."""
    metadata = json.loads(dumped["metadata"]) | (refusals(guarded) if guarded is not None else {})
    metadata |= decided(answer)
    return UsageRow(
        **{
            **dumped,
            "tenant_id": UUID(dumped["tenant_id"]),
            "status": "ok",
            "prompt_tokens": answer.counts["prompt_tokens"],
            "completion_tokens": answer.counts["completion_tokens"],
            "seconds": seconds,
            "metadata": json.dumps(metadata),
        }
    )
