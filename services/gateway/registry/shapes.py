"""From rows of the registry to the objects that clients see. Pure."""

from __future__ import annotations

from typing import Any

from services.gateway.shapes import Row, Shape, unix
from shared.contracts.model_registry import PREFIX, WHOLE

USAGE = ("requests", "errors", "prompt_tokens", "completion_tokens", "seconds")


def registered(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "registered_model",
        "name": row["name"],
        "model": PREFIX + row["name"],
        "description": row["description"],
        "created_at": unix(row["created_at"]),
        "created_by": row["api_key_id"],
        "latest_version": row["latest"] or None,
        "production_version": row["production"],
        "canary": {"version": row["canary"], "share": row["share"] / WHOLE} if row["canary"] else None,
        "canary_rule": row["canary_rule"],
        "approval": row["approval"],
        "gates": row["gates"],
        "moved_at": unix(row["moved_at"]),
    }


def version(of: Row, row: Row, used: Row | None = None) -> Shape:
    """`share` is the part of the name's callers that it gets now."""
    share = of["share"] if row["version"] == of["canary"] else 0
    if row["version"] == of["production"]:
        share = WHOLE - of["share"]
    return {
        "id": f"{of['name']}@{row['version']}",
        "object": "registered_model.version",
        "name": of["name"],
        "version": row["version"],
        "model": f"{PREFIX}{of['name']}@{row['version']}",
        "model_id": row["model_id"],
        "stage": row["stage"],
        "share": share / WHOLE,
        "note": row["note"],
        "created_at": unix(row["created_at"]),
        "created_by": row["api_key_id"],
        "usage": {name: used[name] if used is not None else 0 for name in USAGE},
    }


def decision(name: str, row: Row, *, full: bool = True) -> Shape:
    shape = {
        "id": row["id"],
        "object": "registered_model.decision",
        "name": name,
        "version": row["version"],
        "against": row["against"],
        "verdict": row["verdict"],
        "reasons": [
            f"{check['name']}: {check['reason']}"
            for check in row["checks"]
            if check["outcome"] in ("failed", "inconclusive")
        ],
        "created_at": unix(row["created_at"]),
        "created_by": row["api_key_id"],
        "expires_at": unix(row["expires_at"]),
    }
    if not full:
        return shape
    return {
        **shape,
        "checks": row["checks"],
        "gates": row["gates"],
        "record": row["record"],
        "record_hash": row["record_hash"],
    }


def waiver(name: str, row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "registered_model.waiver",
        "name": name,
        "version": row["version"],
        "check": row["check_name"],
        "reason": row["reason"],
        "created_at": unix(row["created_at"]),
        "created_by": row["api_key_id"],
        "expires_at": unix(row["expires_at"]),
    }


def request(name: str, row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "registered_model.request",
        "name": name,
        "status": _status(row),
        "action": row["action"],
        "version": row["version"],
        "share": row["share"] / WHOLE if row["share"] is not None else None,
        "decision": row["decision_id"],
        "settings": row["settings"],
        "reason": row["reason"],
        "created_at": unix(row["created_at"]),
        "requested_by": row["api_key_id"],
        "answered_by": row["answered_by"],
        "answered_at": unix(row["answered_at"]),
        "answer_reason": row["answer_reason"],
        "expires_at": unix(row["expires_at"]),
    }


def _status(row: Row) -> str:
    if row["approved"] is None:
        return "expired" if row["expired"] else "pending"
    return "approved" if row["approved"] else "rejected"


def event(name: str, row: Row) -> Shape:
    told: dict[str, Any] = {
        "id": str(row["id"]),
        "object": "registered_model.event",
        "name": name,
        "action": row["action"],
        "version": row["version"],
        "from_stage": row["from_stage"],
        "to_stage": row["to_stage"],
        "production": row["production"],
        "canary": {"version": row["canary"], "share": row["share"] / WHOLE} if row["canary"] else None,
        "decision": row["decision_id"],
        "request": row["request_id"],
        "data": row["data"],
        "reason": row["reason"],
        "created_at": unix(row["created_at"]),
        "created_by": row["api_key_id"],
        "approved_by": row["approved_by"],
    }
    return told
