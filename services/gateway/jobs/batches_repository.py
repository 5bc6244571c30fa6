"""SQL of the rows of batches that are still running."""

from __future__ import annotations

from collections.abc import Sequence

from shared.db import Connection

ANSWERED = """
SELECT batch_id, count(*) FILTER (WHERE status_code = 200)::int AS completed,
    count(*) FILTER (WHERE status_code <> 200)::int AS failed
FROM inference.batch_row WHERE batch_id = ANY(%s) GROUP BY batch_id"""


def answered_rows(connection: Connection, batch_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """{batch id: {"completed", "failed"}} of batches that have any row."""
    rows = connection.execute(ANSWERED, (list(batch_ids),)).fetchall()
    return {row["batch_id"]: {"completed": row["completed"], "failed": row["failed"]} for row in rows}
