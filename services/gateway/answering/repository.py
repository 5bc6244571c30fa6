"""SQL of answers that were made in the background."""

from __future__ import annotations

from shared.db import Connection

ENTRIES = "SELECT entries FROM inference.chat_answer WHERE job_id = %s"


def entries(connection: Connection, job_id: str) -> bytes | None:
    """All that was said, packed; None for a chat that has not ended well."""
    row = connection.execute(ENTRIES, (job_id,)).fetchone()
    return bytes(row["entries"]) if row is not None else None
