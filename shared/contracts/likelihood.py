"""The job that measures how likely a model of ours finds given answers: a part of runs of evals. Pure."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from shared.contracts.base import JobContract
from shared.contracts.training import BaseRef


class MeasureLikelihood(JobContract):
    """`artifact` is JSONL of {"messages": [...], "reference": text}; the result's a line {"loss", "tokens"} for each:
    the sum of its tokens' cross-entropy in nats, the end of the answer among them."""

    kind: ClassVar[str] = "training.likelihood"
    queue: ClassVar[str] = "training.{pool}"
    id_prefix: ClassVar[str] = "likejob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    model: BaseRef
    artifact: str
    count: int = Field(ge=1)
