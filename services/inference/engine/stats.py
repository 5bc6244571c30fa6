"""What an engine is doing at one moment, in numbers. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from services.inference.engine.embedder import EncoderStats
from services.inference.engine.request import Priority
from services.inference.engine.runtime import Runtime


@dataclass(frozen=True)
class ModelStats:
    base_id: str
    running: int
    waiting_live: int
    waiting_batch: int
    blocks_free: int
    blocks_total: int
    bytes: int
    adapters: list[str]
    steps: int
    prompt_tokens: int
    answer_tokens: int
    preemptions: int

    @classmethod
    def of(cls, base_id: str, runtime: Runtime) -> ModelStats:
        scheduler = runtime.scheduler
        return cls(
            base_id=base_id,
            running=len(scheduler.running),
            waiting_live=scheduler.waiting(Priority.LIVE),
            waiting_batch=scheduler.waiting(Priority.BATCH),
            blocks_free=scheduler.allocator.free,
            blocks_total=scheduler.allocator.total,
            bytes=runtime.bytes(),
            adapters=runtime.adapters.names(),
            steps=runtime.steps,
            prompt_tokens=runtime.prompt_tokens,
            answer_tokens=runtime.answer_tokens,
            preemptions=runtime.preemptions,
        )


@dataclass(frozen=True)
class Stats:
    """A snapshot; `parked` requests wait for a base or an adapter."""

    requests: int
    parked: int
    loading: list[str]
    draining: bool
    models: list[ModelStats]
    encoders: list[EncoderStats]
