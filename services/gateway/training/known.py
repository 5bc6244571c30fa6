"""What the names of a training job's contract stand for: the shape of its model, and what is known of its data."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from uuid import UUID

from services.gateway.datasets import repository as datasets_repository
from services.gateway.training.data import LOOK_BYTES, TrainingData, of_file, of_version
from services.gateway.training.demands import plan_of
from services.gateway.training.distilling import prompts_in, trained_by
from services.gateway.training.places import Place
from services.gateway.training.plan import Plan
from services.gateway.uploads import repository as files_repository
from shared.artifacts import Artifacts
from shared.contracts.base import JobContract
from shared.contracts.distillation import Distill
from shared.contracts.encoders import TrainEncoder
from shared.contracts.estimates import Memory, ModelShape, fitting, shape_of_config
from shared.contracts.heads import TrainHead
from shared.contracts.multi_task import TrainMultiTask
from shared.contracts.training import BaseRef, DataRef
from shared.db import Connection
from shared.errors import HeliuError

# How many tokens a text has is a guess: of a text that says much in few, this share of it is sure.
_SURE = 0.6


@dataclass(frozen=True)
class Known:
    """What a contract's names stand for; None where that cannot be told."""

    contract: JobContract
    shape: ModelShape | None
    data: TrainingData | None
    # Of each task, where there are several.
    parts: tuple[TrainingData | None, ...] = ()

    def plan(self) -> Plan | None:
        """Of the training: a distillation's is its student's."""
        data = self.data
        if isinstance(self.contract, Distill) and data is not None:
            data = prompts_in(self.contract, data)
        return plan_of(trained_by(self.contract), self.shape, data, self.parts)

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
    refs = [part.training for part in getattr(contract, "parts", ())]
    labelled = isinstance(contract, TrainHead | TrainEncoder | TrainMultiTask)
    parts = tuple(_data(connection, tenant, store, ref, labelled=labelled) for ref in refs)
    ref = getattr(contract, "training", None) or getattr(contract, "data", None)
    return Known(
        contract,
        shape_of(store, base.base_artifact) if base is not None else None,
        parts[0] if parts else _data(connection, tenant, store, ref, labelled=labelled),
        parts,
    )


def shape_of(store: Artifacts, artifact: str) -> ModelShape | None:
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


def _data(
    connection: Connection, tenant: UUID, store: Artifacts, ref: DataRef | None, *, labelled: bool
) -> TrainingData | None:
    if ref is None:
        return None
    if ref.kind == "version":
        rows = datasets_repository.versions(connection, tenant, version_id=ref.id, limit=1)
        return of_version(rows[0]) if rows else None
    row = files_repository.get_file(connection, ref.id)
    if row is None:
        return None
    try:
        return of_file(store.begins(ref.artifact, LOOK_BYTES), int(row["bytes"]), labelled=labelled)
    except HeliuError:
        return None
