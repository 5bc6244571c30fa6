"""No-op jobs that tests, the chaos run and benchmarks submit; refused unless HELIU_TEST_FAULTS is on."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract


class Noop(JobContract):
    """Sleep `seconds` in `steps` steps, writing one fenced event a step, then end as `outcome` says."""

    kind: ClassVar[str] = "noop"
    queue: ClassVar[str] = "monitoring"

    seconds: float = Field(0.0, ge=0, le=600)
    steps: int = Field(0, ge=0, le=10_000)
    outcome: Literal["succeed", "fail", "raise", "crash"] = "succeed"
