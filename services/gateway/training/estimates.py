"""What a training job will take of memory and time, whether any worker of its pool can hold it, and what would fit.

The check at submission refuses only what cannot run at all: by the least that the formulas allow, on workers that have
told how much memory they have. What is not known is let through; the trainer looks again at its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from services.gateway.context import Gateway
from services.gateway.training import repository as estimates_repository
from services.gateway.training.data import TrainingData
from services.gateway.training.distilling import answered_of, asking, prompts_in, trained_by
from services.gateway.training.known import Known, look_up, shape_of
from services.gateway.training.places import Place, places_of
from services.gateway.training.plan import Plan
from services.gateway.training.speeds import Duration, Machine, duration_of, earlier_of, way_of_job
from shared.artifacts import Artifacts
from shared.contracts.base import JobContract
from shared.contracts.distillation import Distill
from shared.contracts.estimates import fitting
from shared.db import Connection
from shared.errors import HeliuError, InvalidInput

# What may be changed so that a run fits: in this order, each as far as it must go.
_SMALLEST_BATCH, _SHORTEST = 1, 64


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
        "answering_seconds": None,
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
    trained = trained_by(contract)
    rows = estimates_repository.measured(connection, tenant, trained.kind, queue)
    machine = best.machine if best else Machine()
    lasts = duration_of(plan, way_of_job(trained), earlier_of(rows, machine), machine)
    asks = Duration(0.0, "")
    if isinstance(contract, Distill) and data is not None:
        asks = _asking(connection, tenant, store, contract, data, plan, machine)
        lasts = Duration(
            None if lasts.seconds is None or asks.seconds is None else lasts.seconds + asks.seconds,
            f"training: {lasts.basis}; answers: {asks.basis}",
        )
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
        "answering_seconds": round(asks.seconds, 1) if asks.seconds else None,
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


def _asking(
    connection: Connection,
    tenant: UUID,
    store: Artifacts,
    job: Distill,
    data: TrainingData,
    plan: Plan,
    machine: Machine,
) -> Duration:
    """How long the models of a distillation answer; as fast as the machine that trains where none was measured."""
    sizes: dict[str, int | None] = {}
    for ref in (*job.models.values(), job.untrained):
        shape = None if ref.upstream else shape_of(store, ref.base_artifact)
        sizes[ref.name] = shape.parameters if shape is not None else None
    answered = answered_of(estimates_repository.batches(connection, tenant))
    return asking(job, prompts_in(job, data), sizes, plan.demand.shape.vocabulary, answered, machine)


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


def _words(change: Mapping[str, Any]) -> str:
    return " with ".join(f"{name} {value}" for name, value in change.items())


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
