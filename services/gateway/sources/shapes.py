"""Sources and syncs as clients see them; never their credentials. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.gateway.shapes import unix
from shared.jobs import Job


def source(row: Mapping[str, Any]) -> dict[str, Any]:
    state = row["state"]
    snapshot, quarantine = state.get("snapshot") or {}, state.get("quarantine") or {}
    return {
        "id": row["id"],
        "object": "source",
        "name": row["name"],
        "kind": row["kind"],
        "connection": row["connection"],
        "options": row["options"],
        "schedule": {"cron": row["cron"], "timezone": row["timezone"]} if row["cron"] else None,
        "next_at": unix(row["next_at"]),
        "build": row["build"],
        "file_id": snapshot.get("file_id"),
        "rows": snapshot.get("rows"),
        "columns": [{"name": name, "type": kind} for name, kind in state.get("columns", [])],
        "quarantine_file_id": quarantine.get("file_id"),
        "quarantine_rows": quarantine.get("rows", 0),
        "synced_at": state.get("synced_at"),
        "created_at": unix(row["created_at"]),
    }


def sync(job: Job) -> dict[str, Any]:
    result = job.result or {}
    return {
        "id": job.id,
        "object": "source.sync",
        "source": job.payload["source"],
        "source_id": job.payload["source_id"],
        "status": job.state.value,
        "full": job.payload["full"],
        "scheduled": job.payload["scheduled"],
        "created_at": unix(job.created_at),
        "started_at": unix(job.started_at),
        "finished_at": unix(job.finished_at),
        "rows_read": job.progress.get("rows_read"),
        "file_id": result.get("file_id"),
        "quarantine_file_id": result.get("quarantine_file_id"),
        "report": result.get("report"),
        "build": result.get("build"),
        "error": job.error,
        "trace_id": job.trace_id,
    }
