"""What a search is for and how many trials it takes: the checks that need no place in a body. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from shared.contracts.searches import (
    DEFAULT_TRIALS,
    MAX_TRIALS,
    Direction,
    Range,
    Sampler,
    combinations,
    metrics_of,
    natural_direction,
)
from shared.errors import InvalidInput

# Of a file alone these hold no rows out by themselves.
NEEDS_ROWS = ("training.pretrain", "training.fine_tune", "training.preferences")


def objective_of(
    kind: str, payload: Mapping[str, Any], metric: str | None, direction: Direction | None
) -> tuple[str, Direction]:
    """The metric and its direction. Raises InvalidInput for a job, a metric or a direction that does not go."""
    known = metrics_of(kind, payload)
    if not known:
        raise InvalidInput(
            f"jobs of the kind {kind!r} have no metric of their own to search by", param="job.type"
        )
    chosen = metric or known[0]
    if chosen not in known:
        close = difflib.get_close_matches(chosen, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InvalidInput(
            f"no metric {chosen[:64]!r} is told by this job{hint}; there are {', '.join(known)}",
            param="objective.metric",
        )
    data = payload.get("training") or payload.get("data") or {}
    no_rows = data.get("kind") == "file" and payload.get("validation") is None
    if chosen.startswith("valid_") and kind in NEEDS_ROWS and no_rows:
        raise InvalidInput(
            f"{chosen} is measured on held-out rows, and the job has none; give it a validation_file or a dataset "
            "version",
            param="job.validation_file",
        )
    natural = natural_direction(chosen)
    if direction is not None and direction != natural:
        raise InvalidInput(
            f"{chosen} is better the {'smaller' if natural == 'minimize' else 'larger'} it is; leave direction out, or "
            f"say {natural!r}",
            param="objective.direction",
        )
    return chosen, natural


def trials_of(space: Mapping[str, Range], sampler: Sampler, wanted: int | None) -> int:
    """How many trials there will be at most: no more than the space has points. Raises InvalidInput for a grid."""
    points = combinations(list(space.values()))
    if sampler != "grid":
        return min(wanted or DEFAULT_TRIALS, points or MAX_TRIALS)
    for path, one in space.items():
        if one.values is None:
            raise InvalidInput(
                f"a grid needs to know all values of {path}; give it a step, or choices",
                param=f"space.{path}",
            )
    assert points is not None
    most = wanted or MAX_TRIALS
    if points > most:
        raise InvalidInput(
            f"the grid has {points} points, and {most} trials are allowed; make it coarser, or take the sampler "
            "'random'",
            param="trials" if wanted else "space",
        )
    return points
