"""Gathers what a model card tells, of a model and of the version that it is. Reads what is recorded, and makes no
figure but intervals over the items of eval runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.gateway.models import resolve
from services.gateway.registry import card as model_card
from services.gateway.registry import decisions_repository as decisions
from services.gateway.registry import repository
from services.gateway.registry import shapes as registry_shapes
from services.gateway.registry.checks import Item
from services.gateway.registry.decisions import items_of
from services.gateway.registry.facts import Facts
from services.gateway.registry.known import DATASET, facts_of
from shared.artifacts import Artifacts
from shared.contracts.model_registry import PREFIX
from shared.db import Connection, Row
from shared.errors import NotFound

MOST_EVENTS = 200
MOST_RUNS = 5
# Above this many items a run is told without slices: a card is made while somebody waits.
MOST_ITEMS = 20_000


@dataclass(frozen=True)
class Gathered:
    """What is recorded of a model, as one moment of the database has it."""

    model: Row
    facts: Facts
    data: Row | None
    runs: list[tuple[Row, list[Item]]]
    registered: dict[str, Any] | None
    decision: dict[str, Any] | None
    history: list[dict[str, Any]]


def gather(connection: Connection, tenant: UUID, name: str, of: tuple[Row, Row] | None) -> Gathered:
    """`of` is (registered model, version). Raises NotFound (`model_not_found`)."""
    model = resolve.model_row(connection, tenant, name)
    learned = model["dataset_version"]
    data = None
    if learned is not None and learned.startswith(DATASET):
        data = decisions.data_of(connection, tenant, learned)
    named, events, made, registered = [model["id"]], [], None, None
    if of is not None:
        found, row = of
        named.append(f"{PREFIX}{found['name']}@{row['version']}")
        registered = registry_shapes.version(found, row)
        history = repository.events(connection, found["id"], None, MOST_EVENTS, number=row["version"])
        events = [registry_shapes.event(found["name"], event) for event in history]
        newest = decisions.decisions(connection, found["id"], row["version"], None, 1)
        made = registry_shapes.decision(found["name"], newest[0]) if newest else None
    runs = [
        (run, items_of(connection, run["id"]))
        for run in decisions.runs_of(connection, tenant, named, MOST_RUNS)
    ]
    facts = facts_of(connection, tenant, model)
    return Gathered(model, facts, data, runs, registered, made, events)


def card_of(found: Gathered, artifacts: Artifacts) -> dict[str, Any]:
    """The card; of the data it takes the recipe as the version itself has it."""
    data = None
    if found.data is not None:
        data = {**found.data, "recipe": _recipe(artifacts, found.data["artifact"])}
    evals = [
        model_card.evaluated(run, items, sliced=len(items) <= MOST_ITEMS)
        for run, items in found.runs
        if items
    ]
    return model_card.card(
        found.model,
        data,
        found.facts,
        registered=found.registered,
        decision=found.decision,
        evals=evals,
        history=found.history,
    )


def _recipe(artifacts: Artifacts, version: str) -> dict[str, Any] | None:
    """None of a version whose files were removed since: its row stays, and so does what learned from it."""
    try:
        told: dict[str, Any] = json.loads(artifacts.read_entry(version, "manifest.json"))
    except NotFound:
        return None
    return told.get("recipe")
