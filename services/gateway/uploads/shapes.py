"""Files as clients see them: OpenAI's."""

from __future__ import annotations

from services.gateway.shapes import Row, Shape, unix


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
