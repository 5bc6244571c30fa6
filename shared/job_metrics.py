"""What a job told of its steps, each step once: the SQL of its metric events. Knows no metric by name.

What is kept of a run is made from them when it ends, not appended on the way, whatever a killed attempt told before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shared.db import Connection

# A run that was killed tells again what it had told behind its checkpoint. Of such a step the last telling stands, and
# what an earlier attempt told of later steps is gone once a later event is of a lower step.
STEPS = """
SELECT created_at, step, data FROM (
    SELECT id, created_at, data, (data ->> 'step')::numeric AS step,
        min((data ->> 'step')::numeric) OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
            AS told_later
    FROM core.job_event WHERE job_id = %s AND type = 'metrics') told
WHERE (told_later IS NULL OR step <= told_later) AND step > %s ORDER BY id"""

FETCH = 2000
# Where the run is, told with every figure, and no figure of its own.
_PLACE = frozenset({"step", "total_steps"})


@dataclass
class StepMetrics:
    """One step: when it was last told of, and every finite number that was told."""

    step: int
    at: datetime
    values: dict[str, float] = field(default_factory=dict)


def steps(connection: Connection, job_id: str, *, after: int = -1) -> Iterator[StepMetrics]:
    """The steps behind `after` in their order, read as they are asked for: memory does not grow with them."""
    with connection.cursor(name="job_metrics") as cursor:
        cursor.itersize = FETCH
        cursor.execute(STEPS, (job_id, after))
        current: StepMetrics | None = None
        for row in cursor:
            step = int(row["step"])
            if current is None or current.step != step:
                if current is not None:
                    yield current
                current = StepMetrics(step, row["created_at"])
            current.at = row["created_at"]
            current.values |= _numbers(row["data"])
        if current is not None:
            yield current


def _numbers(data: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in data.items()
        if name not in _PLACE
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }
