"""Models, and the upstreams that answer for some of them, as clients see them."""

from __future__ import annotations

from services.gateway.shapes import Row, Shape, unix


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
