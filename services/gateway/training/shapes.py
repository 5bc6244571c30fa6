"""Fine-tuning jobs, their events and checkpoints as OpenAI's clients see them."""

from __future__ import annotations

from services.gateway.jobs.shapes import ended_with, estimated_finish
from services.gateway.shapes import Row, Shape, unix
from shared.jobs import Job, fine_tuning_status

# What OpenAI's checkpoints have; one that was not measured is null.
CHECKPOINT_METRICS = (
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)


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
        "error": ended_with(one),
        "estimated_finish": estimated_finish(one),
        "integrations": [],
        "metadata": one.metadata,
        "trace_id": one.trace_id,
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
