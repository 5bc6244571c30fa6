"""Gathers what a model card tells, of a model and of the version that it is. Reads what is recorded, and makes no figure
but intervals over the items of eval runs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from services.gateway import model_card, registry_shapes, resolve
from services.gateway import repository_decisions as decisions
from services.gateway import repository_registry as repository
from services.gateway.registry_gate import DATASET, facts_of, items_of
from shared.contracts.model_registry import PREFIX
from shared.db import Connection, Row

MOST_EVENTS = 200
MOST_RUNS = 5
# Above this many items a run is told without slices: a card is made while somebody waits.
MOST_ITEMS = 20_000


def card_of(connection: Connection, tenant: UUID, name: str, of: tuple[Row, Row] | None) -> dict[str, Any]:
    """The card of a model; `of` is (registered model, version). Raises NotFound (`model_not_found`)."""
    model = resolve.model_row(connection, tenant, name)
    learned = model["dataset_version"]
    data = None
    if learned is not None and learned.startswith(DATASET):
        data = decisions.data_of(connection, tenant, learned)
    named, events, made = [model["id"]], [], None
    registered = None
    if of is not None:
        found, row = of
        named.append(f"{PREFIX}{found['name']}@{row['version']}")
        registered = registry_shapes.version(found, row)
        history = repository.events(connection, found["id"], None, MOST_EVENTS, number=row["version"])
        events = [registry_shapes.event(found["name"], event) for event in history]
        newest = decisions.decisions(connection, found["id"], row["version"], None, 1)
        made = registry_shapes.decision(found["name"], newest[0]) if newest else None
    evals = []
    for run in decisions.runs_of(connection, tenant, named, MOST_RUNS):
        items = items_of(connection, run["id"])
        if items:
            evals.append(model_card.evaluated(run, items, sliced=len(items) <= MOST_ITEMS))
    return model_card.card(
        model,
        data,
        facts_of(connection, tenant, model),
        registered=registered,
        decision=made,
        evals=evals,
        history=events,
    )
