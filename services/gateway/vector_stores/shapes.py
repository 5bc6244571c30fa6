"""Vector stores, their files, batches and results as the openai client reads them. Pure.

`embedding_model` and `ranked_by` are ours: a store without an encoder is searched by words alone, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.gateway.shapes import Row, Shape, unix

COUNTED = ("in_progress", "completed", "failed", "cancelled", "total")
_CODES = ("server_error", "unsupported_file", "invalid_file")


def store(row: Row) -> Shape:
    days = row["expires_days"]
    encoder = row["encoder"]
    state = "expired" if row["expired"] else "in_progress" if row["in_progress"] else "completed"
    return {
        "id": row["id"],
        "object": "vector_store",
        "created_at": unix(row["created_at"]),
        "name": row["name"],
        "description": row["description"],
        "usage_bytes": row["usage_bytes"],
        "file_counts": _counts(row),
        "status": state,
        "expires_after": {"anchor": "last_active_at", "days": days} if days else None,
        "expires_at": unix(row["expires_at"]) if days else None,
        "last_active_at": unix(row["last_active_at"]),
        "metadata": row["metadata"],
        "embedding_model": encoder["model"]["name"] if encoder else None,
        "ranked_by": ["words", "meaning"] if encoder else ["words"],
    }


def file(row: Row) -> Shape:
    return {
        "id": row["file_id"],
        "object": "vector_store.file",
        "usage_bytes": row["usage_bytes"],
        "created_at": unix(row["created_at"]),
        "vector_store_id": row["store_id"],
        "status": row["state"],
        "last_error": _error(row),
        "chunking_strategy": {"type": "static", "static": row["chunking"]},
        "attributes": row["attributes"],
        "chunks": row["chunks"],
    }


def _error(row: Row) -> Shape | None:
    """OpenAI's three codes; what failed of ours in our own words."""
    if row["state"] != "failed":
        return None
    told: Mapping[str, Any] = row["error"] or {}
    code = told.get("code")
    return {
        "code": code if code in _CODES else "server_error",
        "message": told.get("message") or "the file could not be indexed; try again",
    }


def batch(row: Row) -> Shape:
    if row["cancelled_at"] is not None:
        state = "cancelled"
    elif row["in_progress"]:
        state = "in_progress"
    else:
        state = "failed" if row["total"] and row["failed"] == row["total"] else "completed"
    return {
        "id": row["id"],
        "object": "vector_store.files_batch",
        "created_at": unix(row["created_at"]),
        "vector_store_id": row["store_id"],
        "status": state,
        "file_counts": _counts(row),
    }


def results(queries: Sequence[str], found: Mapping[str, Any]) -> Shape:
    """A page of results, the best first; all of them are on it."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": list(queries),
        "data": [
            {
                "file_id": hit["file_id"],
                "filename": hit["filename"],
                "score": round(hit["score"], 6),
                "attributes": hit["attributes"],
                "content": [{"type": "text", "text": hit["text"]}],
                "chunk": hit["chunk"],
            }
            for hit in found["results"]
        ],
        "has_more": False,
        "next_page": None,
        "ranked_by": found["ranked_by"],
    }


def contents(texts: Sequence[str]) -> Shape:
    """The chunks of a file."""
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": text} for text in texts],
        "has_more": False,
        "next_page": None,
    }


def _counts(row: Row) -> Shape:
    return {name: row[name] for name in COUNTED}
