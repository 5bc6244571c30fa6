"""From rows and jobs to the objects that clients see: OpenAI's where it has one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shared.jobs import TERMINAL, Job, Status, batch_status, fine_tuning_status

Row = Mapping[str, Any]
Shape = dict[str, Any]

# What OpenAI's checkpoints have; one that was not measured is null.
CHECKPOINT_METRICS = (
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)


def unix(moment: datetime | None) -> int | None:
    """Whole seconds since 1970, as OpenAI writes times."""
    return int(moment.timestamp()) if moment is not None else None


def file(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "file",
        "bytes": row["bytes"],
        "created_at": unix(row["created_at"]),
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": row["status"],
        "expires_at": unix(row["expires_at"]),
        "status_details": row["status_details"],
    }


def model(row: Row, owner: str) -> Shape:
    return {
        "id": row["id"],
        "object": "model",
        "created": unix(row["created_at"]),
        "owned_by": owner,
        "kind": row["kind"],
        "base": row["base_id"],
        "job_id": row["job_id"],
        "dataset_version": row["dataset_version"],
        "info": row["info"],
    }


def upstream(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "upstream",
        "name": row["name"],
        "tenant": row["tenant"],
        "url": row["url"],
        "model": row["model"],
        "endpoints": row["endpoints"],
        "context_length": row["context_length"],
        "has_api_key": row["has_api_key"],
        "created_at": unix(row["created_at"]),
    }


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


def fine_tuning_job(one: Job) -> Shape:
    payload, result = one.payload, one.result or {}
    parameters = payload["hyperparameters"]
    shown = {
        name: parameters.get(name, "auto") for name in ("n_epochs", "batch_size", "learning_rate_multiplier")
    }
    validation = payload.get("validation")
    way = "dpo" if one.kind == "training.preferences" else "supervised"
    return {
        "id": one.id,
        "object": "fine_tuning.job",
        "created_at": unix(one.created_at),
        "finished_at": unix(one.finished_at),
        "status": fine_tuning_status(one),
        "model": payload["base"]["model"],
        "fine_tuned_model": result.get("fine_tuned_model"),
        "organization_id": str(one.tenant_id),
        "result_files": result.get("result_files", []),
        "seed": payload["seed"],
        "trained_tokens": result.get("trained_tokens"),
        "training_file": payload["training"]["id"],
        "validation_file": validation["id"] if validation else None,
        "hyperparameters": shown,
        "method": {"type": way, way: {"hyperparameters": parameters}},
        "user_provided_suffix": payload.get("suffix"),
        "error": _error(one),
        "estimated_finish": estimated_finish(one),
        "integrations": [],
        "metadata": one.metadata,
        "trace_id": one.trace_id,
    }


def _error(one: Job) -> Shape | None:
    if one.state not in TERMINAL or one.error is None:
        return None
    return {
        "code": one.error.get("code", "internal_error"),
        "message": one.error.get("message", ""),
        "param": one.error.get("param"),
    }


def fine_tuning_event(row: Row) -> Shape:
    return {
        "id": f"ftevent-{row['id']}",
        "object": "fine_tuning.job.event",
        "created_at": unix(row["created_at"]),
        "level": row["level"],
        "message": row["message"],
        "type": "metrics" if row["type"] == "metrics" else "message",
        "data": {**row["data"], "event": row["type"]},
    }


def checkpoint(row: Row) -> Shape:
    metrics = row["metrics"]
    return {
        "id": row["id"],
        "object": "fine_tuning.job.checkpoint",
        "created_at": unix(row["created_at"]),
        "fine_tuned_model_checkpoint": row["model_id"],
        "fine_tuning_job_id": row["job_id"],
        "step_number": row["step"],
        "metrics": {"step": row["step"], **dict.fromkeys(CHECKPOINT_METRICS), **metrics},
    }


def batch(one: Job) -> Shape:
    payload, progress, result = one.payload, one.progress, one.result or {}
    counts = result.get("request_counts") or progress.get("request_counts") or {}
    ended = unix(one.finished_at)
    status = batch_status(one)
    errors = result.get("errors") or (one.error or {}).get("errors")
    if errors is None and status == "failed" and one.error is not None:
        errors = [{"line": None, **(_error(one) or {})}]
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


def dataset(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "dataset",
        "name": row["name"],
        "created_at": unix(row["created_at"]),
        "current_version": row["current_version"],
    }


def dataset_version(row: Row, *, full: bool = False) -> Shape:
    shape = {
        "id": row["id"],
        "object": "dataset.version",
        "dataset": row["dataset"],
        "created_at": unix(row["created_at"]),
        "job_id": row["job_id"],
        "file_id": row["file_id"],
        "rows": row["rows"],
        "train_rows": row["train_rows"],
        "validation_rows": row["validation_rows"],
        "gate_passed": row["gate_passed"],
        "gate": row["gate"],
    }
    return {**shape, "report": row["report"], "drift": row["drift"]} if full else shape


def api_key(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "api_key",
        "name": row["name"],
        "prefix": row["prefix"],
        "role": row["role"],
        "tenant": row["tenant"],
        "requests_per_minute": row["requests_per_minute"],
        "tokens_per_day": row["tokens_per_day"],
        "created_at": unix(row["created_at"]),
        "revoked_at": unix(row["revoked_at"]),
    }


def tenant(row: Row) -> Shape:
    return {
        "id": str(row["id"]),
        "object": "tenant",
        "name": row["name"],
        "created_at": unix(row["created_at"]),
        "max_live": row["max_live"],
        "max_running": row["max_running"],
        "weight": row["weight"],
    }


def webhook(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "webhook_endpoint",
        "url": row["url"],
        "events": row["events"],
        "created_at": unix(row["created_at"]),
    }


def worker(row: Row) -> Shape:
    times = {name: unix(row[name]) for name in ("started_at", "heartbeat_at")}
    return {"object": "worker", **row, **times}


def span(row: Row) -> Shape:
    names = ("trace_id", "span_id", "parent_id", "service", "name", "kind", "start_ns", "end_ns", "status")
    more = ("status_message", "attributes", "events", "links")
    return {"object": "span", "id": row["span_id"], **{name: row[name] for name in (*names, *more)}}


def alert(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "alert",
        "rule": row["rule"],
        "subject": row["subject"],
        "severity": row["severity"],
        "message": row["message"],
        "value": row["value"],
        "threshold": row["threshold"],
        "trace_ids": row["trace_ids"],
        "started_at": unix(row["started_at"]),
        "resolved_at": unix(row["resolved_at"]),
    }
