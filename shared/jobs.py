"""What a job is, which states it may pass through, and how OpenAI's APIs name them. Pure; knows no SQL."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

from shared.errors import Conflict


class Status(StrEnum):
    """The state of a job; `cancel` and `pause` are requests beside it, not states."""

    QUEUED = "queued"
    LEASED = "leased"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset(
        {Status.LEASED, Status.PAUSED, Status.CANCELLED, Status.EXPIRED, Status.DEAD, Status.FAILED}
    ),
    Status.LEASED: frozenset(
        {
            Status.QUEUED,
            Status.PAUSED,
            Status.SUCCEEDED,
            Status.FAILED,
            Status.DEAD,
            Status.CANCELLED,
            Status.EXPIRED,
        }
    ),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.DEAD: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset(),
    Status.EXPIRED: frozenset(),
}

TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.DEAD, Status.CANCELLED, Status.EXPIRED})


def check_transition(current: Status, target: Status) -> None:
    """Raise Conflict when a job in `current` may not become `target`."""
    if target not in TRANSITIONS[current]:
        allowed = ", ".join(sorted(TRANSITIONS[current])) or "nothing (it has ended)"
        raise Conflict(
            f"a job that is {current.value} cannot become {target.value}; it can become: {allowed}"
        )


FINE_TUNING_STATUS: Mapping[Status, str] = {
    Status.QUEUED: "queued",
    Status.LEASED: "running",
    Status.PAUSED: "paused",
    Status.SUCCEEDED: "succeeded",
    Status.FAILED: "failed",
    Status.DEAD: "failed",
    Status.CANCELLED: "cancelled",
    Status.EXPIRED: "failed",
}

BATCH_STATUS: Mapping[Status, str] = {
    Status.QUEUED: "in_progress",
    Status.LEASED: "in_progress",
    Status.PAUSED: "in_progress",
    Status.SUCCEEDED: "completed",
    Status.FAILED: "failed",
    Status.DEAD: "failed",
    Status.CANCELLED: "cancelled",
    Status.EXPIRED: "expired",
}


def fine_tuning_status(job: Job) -> str:
    """OpenAI's status of a fine-tuning job; `validating_files` while its data is being checked."""
    if job.state is Status.LEASED and job.progress.get("phase") == "validating":
        return "validating_files"
    return FINE_TUNING_STATUS[job.state]


def batch_status(job: Job) -> str:
    """OpenAI's status of a batch, from the job's state, its phase and a cancel request."""
    if job.state in TERMINAL:
        return BATCH_STATUS[job.state]
    if job.cancel_requested_at is not None:
        return "finalizing" if job.progress.get("expired") else "cancelling"
    phases = {"validating": "validating", "rows": "in_progress", "finalizing": "finalizing"}
    return phases[str(job.progress.get("phase", "validating"))]


def new_id(prefix: str) -> str:
    """An id that sorts by time of making: prefix, 12 hex digits of milliseconds, 12 of randomness."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


@dataclass(frozen=True)
class Job:
    """One durable unit of work, as its row stands in Postgres."""

    id: str
    tenant_id: UUID
    kind: str
    queue: str
    state: Status
    priority: int
    cost: float
    payload: dict[str, Any]
    progress: dict[str, Any]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    metadata: dict[str, Any]
    attempt: int
    max_attempts: int
    crashes: int
    max_crashes: int
    epoch: int
    worker_id: str | None
    lease_until: datetime | None
    run_at: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    cancel_requested_at: datetime | None
    pause_requested_at: datetime | None
    blocked_by: int
    parent_id: str | None
    time_limit_s: float | None
    idempotency_key: str | None
    body_hash: bytes | None
    api_key_id: str | None
    traceparent: str | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(**{**row, "state": Status(row["state"])})

    @property
    def trace_id(self) -> str | None:
        """32 hex digits: the trace that the job was submitted in."""
        return self.traceparent.split("-")[1] if self.traceparent else None


@dataclass(frozen=True)
class NewJob:
    """What a caller says of a job that it submits; `depends_on` names jobs that must end first."""

    id: str
    tenant_id: UUID
    kind: str
    queue: str
    payload: dict[str, Any]
    max_attempts: int = 3
    max_crashes: int = 3
    priority: int = 0
    cost: float = 1.0
    time_limit_s: float | None = None
    expires_at: datetime | None = None
    run_at: datetime | None = None
    parent_id: str | None = None
    metadata: dict[str, Any] | None = None
    idempotency_key: str | None = None
    body_hash: bytes | None = None
    api_key_id: str | None = None
    traceparent: str | None = None
    depends_on: tuple[str, ...] = ()
    on_parent_failure: str = "fail"
    preemptible: bool = False
