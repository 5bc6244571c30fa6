"""How long a run will take: by what earlier runs were measured at, else by a guess that says so. Pure.

A training step is 6 operations a parameter and token, 4 where the weights themselves do not learn (Kaplan et al. 2020,
arXiv:2001.08361); reading a text is 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.gateway.training.plan import Plan
from shared.contracts.base import JobContract

# Runs count as alike up to this factor between their sizes, and so do their steps; as a measure of the machine up to
# the other one.
ALIKE, COMPARABLE = 4.0, 64.0
MOST = 3
# Operations a second, where nothing was measured: of a core of a server with models of a million parameters, up to so
# many cores; and a third of what a data-centre GPU is sold for.
GUESSED_FLOPS: Mapping[str, float] = {"cpu": 1e10, "cuda": 1e14}
MOST_CORES = 16
# A step takes so long however little it computes; starting a trainer, saving, and starting the engine for its check.
LEAST_STEP_S, GUESSED_OTHER_S = 0.005, 20.0
# Ways of training causal models, whose speed says something of each other's.
_CAUSAL = frozenset({"training.pretrain", "training.fine_tune", "training.preferences"})


@dataclass(frozen=True)
class Duration:
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class Machine:
    """What a run is computed on: `cores` of a processor, whose number a GPU does not ask."""

    device: str = "cpu"
    name: str | None = None
    cores: int = 2

    @property
    def guessed(self) -> float:
        """Operations a second."""
        return GUESSED_FLOPS[self.device] * (min(self.cores, MOST_CORES) if self.device == "cpu" else 1)


@dataclass(frozen=True)
class Earlier:
    """An earlier run's measures: seconds for a token and a parameter together, of how many operations that is, and
    seconds beside the steps."""

    way: str
    per_work: float
    operations: int
    other_seconds: float
    parameters: float
    tokens_per_step: float


def way_of(kind: str, payload: Mapping[str, Any]) -> str:
    """What makes runs of a kind differ in speed, in one line: `training.fine_tune lora`."""
    wanted: Mapping[str, Any] = payload.get("hyperparameters") or {}
    choice: Mapping[str, Any] = payload.get("choice") or {}
    told = [kind, choice.get("head"), choice.get("method") or payload.get("method") or wanted.get("method")]
    if kind == "training.pretrain" and not payload.get("base"):
        told.append("from scratch")
    told += [name for name in (wanted.get("quantization"),) if name not in (None, "none")]
    if wanted.get("processes") not in (None, "auto", 1):
        told.append(f"{wanted['processes']} processes")
    return " ".join(str(one) for one in told if one)


def earlier_of(rows: Sequence[Mapping[str, Any]], machine: Machine) -> list[Earlier]:
    """Of jobs (`kind`, `payload`, `result`), in their order; those on another kind of device, or on a GPU of another
    name, are left out."""
    found = []
    for row in rows:
        told = row["result"].get("measured") or {}
        numbers = [
            told.get(name) for name in ("seconds_per_step", "parameters", "tokens_per_step", "other_seconds")
        ]
        known = told.get("device_name") if machine.device == "cuda" else None
        if told.get("device") != machine.device or known not in (None, machine.name):
            continue
        if all(isinstance(n, int | float) and n >= 0 for n in numbers) and all(numbers[:3]):
            seconds, parameters, tokens, other = (float(n) for n in numbers if n is not None)
            learning = (told.get("trained_parameters") or parameters) >= parameters / 2
            way, per_work = way_of(row["kind"], row["payload"]), seconds / (parameters * tokens)
            found.append(Earlier(way, per_work, 6 if learning else 4, other, parameters, tokens))
    return found


def duration_of(plan: Plan, way: str, earlier: Sequence[Earlier], machine: Machine) -> Duration:
    """By runs of the same way and like shape, else by runs of the same kind of model, else by a guess."""
    if not plan.steps or not plan.tokens:
        return Duration(None, "unknown: the length of the data is not known")
    parameters, each = plan.demand.shape.parameters, plan.tokens / plan.steps
    alike = _nearest([one for one in earlier if one.way == way], parameters, each, ALIKE)
    related = _nearest([one for one in earlier if _related(one.way, way)], parameters, each, COMPARABLE)
    if alike:
        seconds = _mean([one.per_work for one in alike]) * parameters * plan.tokens
        other = _mean([one.other_seconds for one in alike])
        basis = f"measured: {_jobs(len(alike))} of this way and like shape on this pool"
    else:
        per_operation = [one.per_work / one.operations for one in related]
        speed = 1 / _mean(per_operation) if related else machine.guessed
        seconds = plan.operations / speed + plan.steps * LEAST_STEP_S
        other = _mean([one.other_seconds for one in related]) if related else GUESSED_OTHER_S
        other += plan.reading / speed
        on = "GPU" if machine.device == "cuda" else "CPU"
        basis = (
            f"measured: the speed of {_jobs(len(related))} of other ways on this pool"
            if related
            else f"a guess: {speed:.0e} operations a second on a {on}, since no earlier job of like shape was measured"
        )
    if plan.max_seconds is not None and seconds > plan.max_seconds:
        seconds, basis = plan.max_seconds, f"{basis}; cut to max_seconds"
    return Duration(seconds + other, basis)


def way_of_job(contract: JobContract) -> str:
    return way_of(contract.kind, contract.dump())


def _nearest(
    earlier: Sequence[Earlier], parameters: float, tokens_per_step: float, most: float
) -> list[Earlier]:
    """The few whose shape is likest, the newest of equals first."""
    near = [one for one in earlier if _apart(one, parameters, tokens_per_step) <= math.log(most)]
    return sorted(near, key=lambda one: _apart(one, parameters, tokens_per_step))[:MOST]


def _related(one: str, way: str) -> bool:
    """Whether a run's speed says something of another's: what is computed once and learned from often says nothing."""
    kinds = [name.partition(" ")[0] in _CAUSAL for name in (one, way)]
    return kinds[0] == kinds[1] and not one.endswith((" frozen", " lstm"))


def _apart(one: Earlier, parameters: float, tokens_per_step: float) -> float:
    """How unlike two runs are: the greater of both ratios, as a logarithm."""
    return max(
        abs(math.log(one.parameters / parameters)), abs(math.log(one.tokens_per_step / tokens_per_step))
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _jobs(count: int) -> str:
    return f"{count} earlier {'jobs' if count > 1 else 'job'}"
