"""SQL of the usage ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from shared.db import Connection, Row

INSERT_USAGE = """
INSERT INTO gateway.usage AS usage (tenant_id, api_key_id, request_id, endpoint, model, model_artifact, pool, status,
    prompt_tokens, completion_tokens, seconds, first_token_seconds, trace_id, metadata, answer_id)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s)
ON CONFLICT (tenant_id, request_id) DO UPDATE SET status = EXCLUDED.status,
    prompt_tokens = EXCLUDED.prompt_tokens, completion_tokens = EXCLUDED.completion_tokens,
    seconds = EXCLUDED.seconds, metadata = EXCLUDED.metadata
WHERE EXCLUDED.prompt_tokens + EXCLUDED.completion_tokens > usage.prompt_tokens + usage.completion_tokens"""

BY_DAY = """
SELECT created_at::date AS day, model, count(*)::bigint AS requests,
    count(*) FILTER (WHERE status <> 'ok')::bigint AS errors,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens,
    sum(seconds)::float8 AS seconds
FROM gateway.usage
WHERE created_at >= %(first)s::date AND created_at < %(last)s::date + 1
  AND (%(model)s::text IS NULL OR model = %(model)s)
GROUP BY 1, 2 ORDER BY 1 DESC, 2 LIMIT 10000"""


def insert_usage(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Append rows; of one that is there already the fuller stays: a stream may be taken up by another gateway."""
    with connection.cursor() as cursor:
        cursor.executemany(INSERT_USAGE, rows)


def usage_by_day(connection: Connection, first: date, last: date, model: str | None) -> list[Row]:
    """Sums by day and model, newest first, of the connection's tenant."""
    return connection.execute(BY_DAY, {"first": first, "last": last, "model": model}).fetchall()
