"""Jobs and their events, batches and webhooks as clients see them: OpenAI's where it has one."""

from __future__ import annotations

from services.gateway.shapes import Row, Shape, unix
from shared.jobs import TERMINAL, Job, Status, batch_status


def job(one: Job, position: int | None = None) -> Shape:
    """Any job. `position` is how many of the tenant's own jobs go before it."""
    return {
        "id": one.id,
        "object": "job",
        "kind": one.kind,
        "queue": one.queue,
        "status": one.state.value,
        "created_at": unix(one.created_at),
        "started_at": unix(one.started_at),
        "finished_at": unix(one.finished_at),
        "run_at": unix(one.run_at),
        "cancel_requested_at": unix(one.cancel_requested_at),
        "pause_requested_at": unix(one.pause_requested_at),
        "attempt": one.attempt,
        "max_attempts": one.max_attempts,
        "crashes": one.crashes,
        "max_crashes": one.max_crashes,
        "priority": one.priority,
        "position": position,
        "estimated_finish": estimated_finish(one),
        "blocked_by": one.blocked_by,
        "parent_id": one.parent_id,
        "worker": one.worker_id,
        "progress": one.progress,
        "result": one.result,
        "error": one.error,
        "metadata": one.metadata,
        "trace_id": one.trace_id,
    }


def estimated_finish(one: Job) -> int | None:
    """Unix seconds, by the speed that a running job has now; None where that is not known."""
    expected = one.progress.get("estimated_finish")
    return int(expected) if one.state is Status.LEASED and expected is not None else None


def job_event(row: Row) -> Shape:
    return {
        "id": str(row["id"]),
        "object": "job.event",
        "created_at": unix(row["created_at"]),
        "type": row["type"],
        "level": row["level"],
        "message": row["message"],
        "data": row["data"],
    }


def ended_with(one: Job) -> Shape | None:
    """The error of a job that has ended with one, as OpenAI writes them in jobs."""
    if one.state not in TERMINAL or one.error is None:
        return None
    return {
        "code": one.error.get("code", "internal_error"),
        "message": one.error.get("message", ""),
        "param": one.error.get("param"),
    }


def batch(one: Job) -> Shape:
    payload, progress, result = one.payload, one.progress, one.result or {}
    counts = result.get("request_counts") or progress.get("request_counts") or {}
    ended = unix(one.finished_at)
    status = batch_status(one)
    errors = result.get("errors") or (one.error or {}).get("errors")
    if errors is None and status == "failed" and one.error is not None:
        errors = [{"line": None, **(ended_with(one) or {})}]
    return {
        "id": one.id,
        "object": "batch",
        "endpoint": payload["endpoint"],
        "completion_window": payload["completion_window"],
        "input_file_id": payload["input_file_id"],
        "model": result.get("model") or progress.get("model"),
        "status": status,
        "output_file_id": result.get("output_file_id"),
        "error_file_id": result.get("error_file_id"),
        "errors": {"object": "list", "data": errors} if errors else None,
        "created_at": unix(one.created_at),
        "in_progress_at": progress.get("in_progress_at"),
        "finalizing_at": progress.get("finalizing_at"),
        "completed_at": ended if status == "completed" else None,
        "failed_at": ended if status == "failed" else None,
        "expired_at": ended if status == "expired" else None,
        "expires_at": unix(one.expires_at),
        "cancelling_at": unix(one.cancel_requested_at),
        "cancelled_at": ended if status == "cancelled" else None,
        "request_counts": {name: counts.get(name, 0) for name in ("total", "completed", "failed")},
        "usage": result.get("usage"),
        "metadata": one.metadata or None,
        "trace_id": one.trace_id,
    }


def webhook(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "webhook_endpoint",
        "url": row["url"],
        "events": row["events"],
        "created_at": unix(row["created_at"]),
    }
