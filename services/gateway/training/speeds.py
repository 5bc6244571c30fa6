"""How long a run will take: by what earlier runs of its like were measured at, else by a guess that says so. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.gateway.training.demands import Plan

# Runs count as alike up to this factor between their sizes, and so do their steps.
ALIKE = 4.0
MOST = 3
# Operations a second, where nothing was measured: what two cores of a server did with models of a million parameters,
# and a third of what a data-centre GPU is sold for.
GUESSED_FLOPS: Mapping[str, float] = {"cpu": 2e10, "cuda": 1e14}
# Starting a trainer, reading, and saving.
GUESSED_OTHER_S = 30.0


@dataclass(frozen=True)
class Duration:
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class Earlier:
    """An earlier run's measures: seconds for a token and a parameter together, and those beside the steps."""

    per_work: float
    other_seconds: float
    parameters: float
    tokens_per_step: float


def earlier_of(results: Sequence[Mapping[str, Any]], device: str | None) -> list[Earlier]:
    """Of jobs' results; those on another kind of device are left out."""
    found = []
    for result in results:
        told = result.get("measured") or {}
        numbers = [
            told.get(name) for name in ("seconds_per_step", "parameters", "tokens_per_step", "other_seconds")
        ]
        if device is not None and told.get("device") != device:
            continue
        if all(isinstance(n, int | float) and n >= 0 for n in numbers) and all(numbers[:3]):
            seconds, parameters, tokens, other = (float(n) for n in numbers if n is not None)
            found.append(Earlier(seconds / (parameters * tokens), other, parameters, tokens))
    return found


def duration_of(plan: Plan, earlier: Sequence[Earlier], device: str | None) -> Duration:
    """Work is parameters times tokens (Kaplan et al. 2020, arXiv:2001.08361: 6 operations each, 4 where the weights
    themselves do not learn)."""
    if plan.steps is None or plan.tokens is None or plan.steps == 0:
        return Duration(None, "unknown: the length of the data is not known")
    parameters, each = plan.demand.shape.parameters, plan.tokens / plan.steps
    alike = sorted(
        (one for one in earlier if _apart(one, parameters, each) <= math.log(ALIKE)),
        key=lambda one: _apart(one, parameters, each),
    )[:MOST]
    if alike:
        work = math.fsum(one.per_work for one in alike) / len(alike)
        other = math.fsum(one.other_seconds for one in alike) / len(alike)
        seconds = work * parameters * plan.tokens
        basis = (
            f"measured: {len(alike)} earlier {'jobs' if len(alike) > 1 else 'job'} of like shape on this pool"
        )
    else:
        learning = plan.demand.trainable >= parameters / 2
        seconds = (6 if learning else 4) * parameters * plan.tokens / GUESSED_FLOPS[device or "cpu"]
        other = GUESSED_OTHER_S
        basis = (
            f"a guess: {GUESSED_FLOPS[device or 'cpu']:.0e} operations a second on a "
            f"{'GPU' if device == 'cuda' else 'CPU'}, since no earlier job of like shape was measured"
        )
    if plan.max_seconds is not None and seconds > plan.max_seconds:
        seconds, basis = plan.max_seconds, f"{basis}; cut to max_seconds"
    return Duration(seconds + other, basis)


def _apart(one: Earlier, parameters: float, tokens_per_step: float) -> float:
    """How unlike two runs are: the greater of both ratios, as a logarithm."""
    return max(
        abs(math.log(one.parameters / parameters)), abs(math.log(one.tokens_per_step / tokens_per_step))
    )
