"""What an operator sees: keys, tenants, workers, spans and alerts."""

from __future__ import annotations

from services.gateway.shapes import Row, Shape, unix


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
