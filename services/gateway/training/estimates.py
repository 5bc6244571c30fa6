"""What a training job will take of memory and time, whether any worker of its pool can hold it, and what would fit.

The check at submission refuses only what cannot run at all: by the least that the formulas allow, on workers that have
told how much memory they have. What is not known is let through; the trainer looks again at its first step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from services.gateway.context import Gateway
from services.gateway.datasets import repository as datasets_repository
from services.gateway.training import repository as estimates_repository
from services.gateway.training.data import LOOK_BYTES, TrainingData, of_file, of_version
from services.gateway.training.demands import Plan, plan_of
from services.gateway.training.places import Place, places_of
from services.gateway.training.speeds import duration_of, earlier_of
from services.gateway.uploads import repository as files_repository
from shared.artifacts import Artifacts
from shared.contracts.base import JobContract
from shared.contracts.estimates import Memory, ModelShape, fitting, shape_of_config
from shared.contracts.training import BaseRef, DataRef
from shared.db import Connection
from shared.errors import HeliuError, InvalidInput

# How many tokens a text has is a guess: of a text that says much in few, this share of it is sure.
_SURE = 0.6
# What may be changed so that a run fits: in this order, each as far as it must go.
_SMALLEST_BATCH, _SHORTEST = 1, 64


@dataclass(frozen=True)
class Known:
    """What a contract's names stand for; None where that cannot be told."""

    contract: JobContract
    shape: ModelShape | None
    data: TrainingData | None

    def plan(self) -> Plan | None:
        return plan_of(self.contract, self.shape, self.data)

    def smallest(self, plan: Plan, place: Place) -> Memory:
        """The least step of a run there; of texts whose length is not known, none."""
        sure = _SURE if self.data is not None else 0.0
        demand = replace(
            plan.demand,
            length=round(plan.demand.length * sure),
            longest=round(plan.demand.longest * sure),
            logits=round(plan.demand.logits * sure),
        )
        return fitting(demand, place.device, 0)

    def fits(self, plan: Plan, place: Place) -> bool | None:
        """Whether the least step does; None where the worker has not told how much memory it has."""
        room = place.room(self.contract)
        return None if room is None else self.smallest(plan, place).least <= room


def look_up(connection: Connection, tenant: UUID, store: Artifacts, contract: JobContract) -> Known:
    """As the tenant: what is known of the contract's model and data."""
    base: BaseRef | None = getattr(contract, "base", None)
    parts = getattr(contract, "parts", ())
    ref = parts[0].training if parts else getattr(contract, "training", None)
    return Known(
        contract,
        _shape(store, base.base_artifact) if base is not None else None,
        _data(connection, tenant, store, ref or getattr(contract, "data", None)),
    )


def that_fits(
    gateway: Gateway, tenant: UUID, kind: type[JobContract], make: Callable[[Connection], JobContract]
) -> Callable[[Connection], JobContract]:
    """`make` for a submission, whose contract is then checked against the workers that are there now."""
    places = places_of(gateway.db, kind.queue_for(gateway.settings.pool))

    def checked(connection: Connection) -> JobContract:
        contract = make(connection)
        check_fits(connection, tenant, gateway.artifacts, contract, places)
        return contract

    return checked


def check_fits(
    connection: Connection, tenant: UUID, store: Artifacts, contract: JobContract, places: Sequence[Place]
) -> None:
    """Raise InvalidInput `does_not_fit`, with what would fit, when no worker of the pool can hold the run."""
    if not places or any(place.memory is None for place in places):
        return
    known = look_up(connection, tenant, store, contract)
    plan = known.plan()
    if plan is None or any(known.fits(plan, place) for place in places):
        return
    best = max(places, key=lambda place: place.room(contract) or 0)
    smallest = known.smallest(plan, best)
    remedies = list(_remedies(known, plan, best))
    would = (
        "; ".join(f"{_words(remedy['change'])} needs {_gib(remedy['memory'])}" for remedy in remedies)
        or "a smaller model, or a worker with more memory"
    )
    raise InvalidInput(
        f"the run needs {_gib(smallest.least)} of memory at least, and the largest worker of its pool has "
        f"{_gib(best.room(contract) or 0)} ({best.device_name}); what would fit: {would}",
        code="does_not_fit",
        param="hyperparameters",
    )


def estimate(
    connection: Connection,
    tenant: UUID,
    store: Artifacts,
    contract: JobContract,
    queue: str,
    places: Sequence[Place],
) -> dict[str, Any]:
    """The whole answer of `POST /v1/training/estimates`."""
    known = look_up(connection, tenant, store, contract)
    plan, data = known.plan(), known.data
    told = [place for place in places if place.memory is not None]
    best = max(told, key=lambda place: place.room(contract) or 0, default=None)
    device = best.device if best else "cpu"
    answer: dict[str, Any] = {
        "object": "training.estimate",
        "kind": contract.kind,
        "memory": None,
        "rows_at_once": None,
        "gradient_checkpointing": None,
        "parameters": None,
        "trained_parameters": None,
        "batch_size": None,
        "epochs": None,
        "steps": None,
        "tokens": None,
        "seconds": None,
        "fits": None,
        "would_fit": [],
        "workers": [],
        "basis": {
            "memory": "unknown: the shape of the model, or this way of training, is not known",
            "tokens": "unknown",
            "seconds": "unknown",
        },
    }
    if plan is None:
        return answer
    memory = fitting(plan.demand, device, best.room(contract) if best else None)
    rows = estimates_repository.measured(connection, tenant, contract.kind, queue)
    lasts = duration_of(plan, earlier_of([row["result"] for row in rows], device), device)
    verdicts = [known.fits(plan, place) for place in places]
    fits = True if True in verdicts else None if not verdicts or None in verdicts else False
    return answer | {
        "memory": memory.told(),
        "rows_at_once": memory.rows_at_once,
        "gradient_checkpointing": memory.recompute,
        "parameters": plan.demand.shape.parameters,
        "trained_parameters": plan.demand.trainable,
        "batch_size": plan.batch_size,
        "epochs": plan.epochs,
        "steps": plan.steps,
        "tokens": plan.tokens,
        "seconds": round(lasts.seconds, 1) if lasts.seconds is not None else None,
        "fits": fits,
        "would_fit": [] if fits is not False or best is None else list(_remedies(known, plan, best)),
        "workers": [
            {
                "name": place.name,
                "device": place.device_name,
                "memory_bytes": place.room(contract),
                "fits": fits_there,
            }
            for place, fits_there in zip(places, verdicts, strict=True)
        ],
        "basis": {
            "memory": f"formulas for a {'GPU' if device == 'cuda' else 'CPU'}"
            + ("" if data else "; the longest text is taken to be as long as may be"),
            "tokens": data.basis if data else "unknown: nothing is known of the data",
            "seconds": lasts.basis,
        },
    }


def _remedies(known: Known, plan: Plan, place: Place) -> Iterator[dict[str, Any]]:
    """Changes of the request that would fit, the smallest of each kind: `change` and `memory`."""
    for kind in _changes(known.contract, plan):
        for change in kind:
            try:
                changed = replace(known, contract=_with(known.contract, change))
            except (HeliuError, ValueError):
                # What does not go together with the rest of the request is no way out.
                continue
            other = changed.plan()
            memory = changed.smallest(other, place) if other is not None else None
            if memory is not None and memory.total <= (place.room(changed.contract) or 0):
                yield {"change": change, "memory": memory.total}
                break


def _changes(contract: JobContract, plan: Plan) -> Iterator[list[dict[str, Any]]]:
    """Kinds of changes, each from the smallest on."""
    wanted: Any = getattr(contract, "hyperparameters", None)
    fields = type(wanted).model_fields
    if getattr(wanted, "gradient_checkpointing", None) is False:
        yield [{"gradient_checkpointing": True}]
    if getattr(wanted, "gradient_accumulation_steps", "auto") != "auto":
        yield [{"gradient_accumulation_steps": "auto"}]
    sizes = _halves(plan.batch_size, _SMALLEST_BATCH)
    yield [{"batch_size": size} for size in sizes]
    for name in ("max_length", "context_length"):
        if name in fields:
            yield [{name: size} for size in _halves(max(plan.demand.length, plan.demand.longest), _SHORTEST)]
    if getattr(wanted, "method", None) == "full":
        yield [{"method": "lora"}, *({"method": "lora", "batch_size": size} for size in sizes)]


def _halves(first: int, last: int) -> list[int]:
    found = []
    while (first := first // 2) >= last:
        found.append(first)
    return found


def _with(contract: JobContract, change: Mapping[str, Any]) -> JobContract:
    payload = contract.dump()
    payload["hyperparameters"] = {**payload["hyperparameters"], **change}
    return type(contract).model_validate(payload)


def _shape(store: Artifacts, artifact: str) -> ModelShape | None:
    """By its configuration and the bytes of its weights; None where they are not there, or say too little."""
    try:
        listing = json.loads(store.begins(artifact, 1 << 22))["tree"]
        paths = {item["path"]: int(item["bytes"]) for item in listing}
        # Sentence encoders keep their model in a folder of its own, or beside its other parts.
        configs = [path for path in ("config.json", "0_Transformer/config.json") if path in paths]
        config = json.loads(store.read_entry(artifact, configs[0])) if configs else {}
    except (HeliuError, ValueError, KeyError, TypeError):
        return None
    weights = sum(size for path, size in paths.items() if path.endswith(".safetensors"))
    return shape_of_config(config, weights)


def _data(connection: Connection, tenant: UUID, store: Artifacts, ref: DataRef | None) -> TrainingData | None:
    if ref is None:
        return None
    if ref.kind == "version":
        rows = datasets_repository.versions(connection, tenant, version_id=ref.id, limit=1)
        return of_version(rows[0]) if rows else None
    row = files_repository.get_file(connection, ref.id)
    if row is None:
        return None
    try:
        return of_file(store.begins(ref.artifact, LOOK_BYTES), int(row["bytes"]))
    except HeliuError:
        return None


def _words(change: Mapping[str, Any]) -> str:
    return " with ".join(f"{name} {value}" for name, value in change.items())


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
