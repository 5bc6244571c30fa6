"""From the rows of a search and its trials to the objects that clients see. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.gateway.shapes import Row, Shape, unix
from shared.contracts.searches import trial_state
from shared.jobs import Job, Status

STATES = ("queued", "running", "paused", "complete", "pruned", "failed", "cancelled")


def search(job: Job, states: Iterable[Row], trials: Sequence[Row] | None = None) -> Shape:
    """`states` counts the trials by `state` and `job_state`; `trials` are shown where they are given."""
    asked = job.payload
    counted: Counter[str] = Counter()
    for row in states:
        counted[trial_state(row["state"], row["job_state"])] += row["trials"]
    result = job.result or {}
    shown = {
        "id": job.id,
        "object": "training.search",
        "status": status(job),
        "name": asked["name"],
        "created_at": unix(job.created_at),
        "started_at": unix(job.started_at),
        "finished_at": unix(job.finished_at),
        "job": asked["asked"],
        "space": {one["path"]: _range(one["range"]) for one in asked["space"]},
        "objective": {"metric": asked["metric"], "direction": asked["direction"]},
        **{name: asked[name] for name in ("parallel", "sampler", "pruner", "pruner_startup_trials")},
        **{name: asked[name] for name in ("pruner_warmup", "seed", "max_seconds")},
        "trials_wanted": asked["trials"],
        "counts": {"total": counted.total(), **{state: counted[state] for state in STATES}},
        "best": result.get("best") or job.progress.get("best"),
        "model": result.get("model"),
        "models": result.get("models"),
        "error": job.error if job.state in (Status.FAILED, Status.DEAD) else None,
        "metadata": job.metadata,
        "trace_id": job.trace_id,
    }
    return shown if trials is None else {**shown, "trials": [trial(row) for row in trials]}


def status(job: Job) -> str:
    """A search that waits for its trials is running, though its job is queued."""
    if job.state in (Status.QUEUED, Status.LEASED):
        if job.cancel_requested_at is not None:
            return "cancelling"
        return "running" if job.started_at is not None else "queued"
    return job.state.value


def trial(row: Row) -> Shape:
    """Parameters by path, the objective and its curve, and the job that ran it."""
    state = trial_state(row["state"], row["job_state"])
    error = row["error"] or (row["job_error"] if state in ("failed", "queued") else None)
    return {
        "number": row["number"],
        "object": "training.search.trial",
        "state": state,
        "params": row["params"],
        "value": row["value"],
        "intermediate_values": points(row),
        "job_id": row["job_id"],
        "error": error,
        "created_at": unix(row["created_at"]),
        "started_at": unix(row["started_at"]),
        "finished_at": unix(row["settled_at"] or row["finished_at"]),
    }


def points(row: Row) -> list[Shape]:
    """The objective at each step that it was told at, in order."""
    told = sorted((int(step), *pair) for step, pair in row["curve"].items())
    return [{"step": step, "value": value, "total_steps": total} for step, value, total in told]


def history(job: Job, rows: Sequence[Row]) -> list[Shape]:
    """The settled trials in the order of their ends, each with the best value until then."""
    larger = job.payload["direction"] == "maximize"
    best: float | None = None
    shown = []
    settled = [row for row in rows if row["settled_at"] is not None]
    for row in sorted(settled, key=lambda one: (one["settled_at"], one["number"])):
        if row["state"] == "complete" and (best is None or (row["value"] > best) == larger):
            best = row["value"]
        told = ("number", "state", "value", "job_id")
        at = unix(row["settled_at"])
        shown.append({**{name: row[name] for name in told}, "best_value": best, "finished_at": at})
    return shown


def importance(job: Job) -> Shape:
    """Shares by path, or why there are none yet."""
    found = job.progress.get("importance") or {"shares": None, "why_none": "no trial has ended yet"}
    return {
        "object": "training.search.importance",
        "search_id": job.id,
        "method": "ped_anova",
        "trials": job.progress.get("trials", {}).get("complete", 0),
        "importances": found["shares"],
        "reason": found["why_none"],
    }


def _range(one: Mapping[str, Any]) -> Shape:
    return {name: value for name, value in one.items() if value is not None}
