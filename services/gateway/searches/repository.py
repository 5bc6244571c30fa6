"""SQL of searches for hyperparameters, as clients look at them."""

from __future__ import annotations

from collections.abc import Sequence

from shared.db import Connection, Row

TRIALS = """
SELECT t.number, t.job_id, t.params, t.state, t.value, t.curve, t.error, t.created_at, t.settled_at,
    j.state AS job_state, j.error AS job_error, j.started_at, j.finished_at
FROM training.search_trial t JOIN core.job j ON j.id = t.job_id WHERE t.search_id = %s ORDER BY t.number"""

STATES = """
SELECT t.search_id, t.state, j.state AS job_state, count(*)::int AS trials
FROM training.search_trial t JOIN core.job j ON j.id = t.job_id WHERE t.search_id = ANY(%s) GROUP BY 1, 2, 3"""


def trials(connection: Connection, search_id: str) -> list[Row]:
    """All of them by number, with what their jobs say."""
    return connection.execute(TRIALS, (search_id,)).fetchall()


def states(connection: Connection, search_ids: Sequence[str]) -> dict[str, list[Row]]:
    """{search id: how many trials of each `state` and `job_state`}."""
    found: dict[str, list[Row]] = {search_id: [] for search_id in search_ids}
    for row in connection.execute(STATES, (list(search_ids),)).fetchall():
        found[row["search_id"]].append(row)
    return found
