"""Waits for a job with its progress on stderr; Ctrl-C leaves the job running."""

from __future__ import annotations

from typing import Any

from services.cli.client import Client
from services.cli.listing import show_one, text
from services.cli.output import err
from shared.errors import HeliuError


def finish(client: Client, job_id: str) -> dict[str, Any]:
    """The job's result. Raises HeliuError with the job's own error and trace when it did not succeed."""
    job = ended(client, job_id)
    if job["status"] != "succeeded":
        error = job["error"] or {"code": job["status"], "message": "no reason was given"}
        raise HeliuError(
            f"job {job_id} is {job['status']}: {text(error['message'])} (trace {job['trace_id']})",
            code=str(error["code"]),
        )
    result: dict[str, Any] = job["result"] or {}
    return result


def ended(client: Client, job_id: str) -> dict[str, Any]:
    """The job once it has ended, however it did; its progress goes to stderr."""
    told = ""

    def tell(job: dict[str, Any]) -> None:
        nonlocal told
        line = _line(job)
        if line != told:
            told = line
            err.print(f"{job_id}  {line}")

    try:
        return client.wait_job(job_id, tell)
    except KeyboardInterrupt:
        err.print(f"{job_id} goes on; `heliu jobs show {job_id}` looks at it, `heliu jobs cancel` ends it")
        raise


def answer(client: Client, job: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    """Show the job that was just accepted, or with `wait` its result."""
    if not wait:
        err.print(f"accepted; `heliu jobs events {job['id']} -f` follows it")
        show_one(job, as_json=as_json)
        return
    show_one({"job_id": job["id"], **finish(client, job["id"])}, as_json=as_json)


def _line(job: dict[str, Any]) -> str:
    progress = job["progress"]
    if job["status"] == "queued" and job["position"]:
        return f"queued behind {job['position']}"
    if "step" in progress:
        return f"step {progress['step']} of {progress.get('total_steps', '?')}"
    phase = progress.get("phase")
    if phase == "fetching" and progress.get("total_bytes"):
        return f"fetching: {progress.get('bytes', 0)} of {progress['total_bytes']} bytes"
    return f"{job['status']}: {text(phase)}" if phase else str(job["status"])
