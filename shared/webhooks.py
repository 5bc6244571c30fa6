"""What leaves the platform when a job ends: event type, body and signature (Standard Webhooks). Pure.

Spec: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from datetime import UTC, datetime

from shared.errors import InvalidInput
from shared.jobs import Job, Status, new_id

_FINE_TUNING = {Status.SUCCEEDED: "succeeded", Status.CANCELLED: "cancelled"}
_EVAL = {Status.SUCCEEDED: "succeeded", Status.CANCELLED: "canceled"}
_BATCH = {Status.SUCCEEDED: "completed", Status.CANCELLED: "cancelled", Status.EXPIRED: "expired"}

EVENT_TYPES = frozenset(
    {f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled")}
    | {f"eval.run.{end}" for end in ("succeeded", "failed", "canceled")}
    | {f"batch.{end}" for end in ("completed", "failed", "cancelled", "expired")}
    | {
        f"job.{end.value}"
        for end in (Status.SUCCEEDED, Status.FAILED, Status.DEAD, Status.CANCELLED, Status.EXPIRED)
    }
    | {"alert.raised", "alert.resolved"}
    | {
        f"model.{said}"
        for said in (
            *("registered", "staged", "archived", "promoted", "promotion_blocked", "rolled_back", "deleted"),
            *("canary_started", "canary_ended", "canary_stopped", "gates_changed", "check_waived"),
            *("approval_requested", "approval_refused"),
        )
    }
)


def event_type(job: Job) -> str:
    """The type of the event that a job's end raises; OpenAI's where it has one."""
    if job.kind in ("training.fine_tune", "training.preferences"):
        return f"fine_tuning.job.{_FINE_TUNING.get(job.state, 'failed')}"
    if job.kind == "inference.batch":
        return f"batch.{_BATCH.get(job.state, 'failed')}"
    if job.kind == "eval.run":
        return f"eval.run.{_EVAL.get(job.state, 'failed')}"
    return f"job.{job.state.value}"


def event_body(type_: str, data: dict[str, object]) -> tuple[str, str]:
    """(event id, JSON body) in the shape that OpenAI's client unwraps."""
    event_id = new_id("evt_")
    body = {
        "id": event_id,
        "object": "event",
        "created_at": int(datetime.now(UTC).timestamp()),
        "type": type_,
        "data": data,
    }
    return event_id, json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def new_secret() -> str:
    """A signing secret: `whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: str) -> str:
    """`v1,<base64 HMAC-SHA256 of "id.timestamp.body">`. Raises InvalidInput for a malformed secret."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as exc:
        raise InvalidInput("a webhook secret is whsec_ and base64") from exc
    digest = hmac.new(key, f"{message_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
