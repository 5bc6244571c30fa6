"""Makes the decision of a gate: gathers what is known, decides outside of any transaction, and keeps the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.gateway.auth import Caller
from services.gateway.evals import repository as evals_repository
from services.gateway.models import repository as models_repository
from services.gateway.registry import decisions_repository as repository
from services.gateway.registry.checks import METHOD, Item, decide, digest, items_hash, with_waivers
from services.gateway.registry.facts import Check, Facts
from services.gateway.registry.known import facts_of
from services.gateway.registry.releases import registered, version
from shared.contracts.model_registry import PREFIX, GateRules
from shared.db import Connection, Database, Row
from shared.errors import Conflict, NotFound
from shared.jobs import new_id


@dataclass(frozen=True)
class Runs:
    """Ids of the eval runs to look at; the newest that fits where one is None."""

    candidate: str | None = None
    champion: str | None = None
    baseline: str | None = None


@dataclass(frozen=True)
class _Run:
    """One run's items, and what the record says of it."""

    id: str
    model: str
    items: list[Item]
    # The file or dataset version that the items are of, where they did not come with the run, and their split.
    items_of: str | None
    split: str | None

    def is_of(self, learned: str | None) -> bool:
        """Whether the items are rows of what a model learned from: a file, or other than a version's held-out rows."""
        return learned is not None and self.items_of == learned and self.split != "validation"

    def told(self) -> dict[str, Any]:
        return {"id": self.id, "model": self.model, "items": len(self.items), "hash": items_hash(self.items)}


@dataclass(frozen=True)
class _Evidence:
    """All that a decision rests on."""

    found: Row
    row: Row
    rules: GateRules
    facts: Facts
    runs: dict[str, _Run]
    about: dict[str, Any]
    waivers: list[Row]

    def checks(self) -> list[Check]:
        items = {name: run.items for name, run in self.runs.items()}
        found = decide(
            self.rules, self.facts, items.get("candidate"), items.get("champion"), items.get("baseline")
        )
        return with_waivers(found, self.waivers)


def evaluate(db: Database, caller: Caller, name: str, number: int, runs: Runs) -> Row:
    """The decision of a version's gate against what is in production now, kept for good."""
    with db.transaction(caller.tenant) as connection:
        seen = _gather(connection, caller, name, number, runs)
    checks = seen.checks()
    record = {
        "registry": name,
        "facts": seen.facts.dump(),
        "runs": {role: run.told() for role, run in seen.runs.items()},
        "waivers": [
            {key: waiver[key] for key in ("id", "check_name", "reason", "api_key_id")}
            for waiver in seen.waivers
        ],
        "statistics": METHOD,
        **seen.about,
    }
    gates = seen.rules.model_dump(mode="json")
    with db.transaction(caller.tenant) as connection:
        return repository.add_decision(
            connection,
            new_id("dec-"),
            caller.tenant,
            seen.found["id"],
            number,
            seen.found["production"],
            gates=gates,
            record=record,
            record_hash=digest({"gates": gates, "record": record, "checks": checks}),
            checks=checks,
            key=caller.key_id,
            expires_at=datetime.now(UTC) + timedelta(hours=seen.rules.valid_hours),
        )


def replay(db: Database, caller: Caller, name: str, decision_id: str) -> dict[str, Any]:
    """What the same inputs lead to now. Raises Conflict where the items of a run are gone or not what they were."""
    with db.transaction(caller.tenant) as connection:
        made = decision(connection, registered(connection, caller.tenant, name), decision_id)
        record = made["record"]
        items = {}
        for role, told in record["runs"].items():
            items[role] = items_of(connection, told["id"])
            if items_hash(items[role]) != told["hash"]:
                raise Conflict(
                    f"the items of run {told['id']} are not those that decision {decision_id} was made of; they were "
                    "deleted with their run",
                    param="decision_id",
                )
    found = decide(
        GateRules.model_validate(made["gates"]),
        Facts.load(record["facts"]),
        items.get("candidate"),
        items.get("champion"),
        items.get("baseline"),
    )
    checks = with_waivers(found, record["waivers"])
    intact = (
        digest({"gates": made["gates"], "record": record, "checks": made["checks"]}) == made["record_hash"]
    )
    return {"same": checks == made["checks"], "intact": intact, "checks": checks}


def decision(connection: Connection, found: Row, decision_id: str) -> Row:
    row = repository.decision(connection, found["id"], decision_id)
    if row is None:
        raise NotFound(f"{found['name']!r} has no decision {decision_id!r}", param="decision")
    return row


def _gather(connection: Connection, caller: Caller, name: str, number: int, asked: Runs) -> _Evidence:
    tenant = caller.tenant
    found = registered(connection, tenant, name)
    row = version(connection, found, number)
    rules = GateRules.model_validate(found["gates"])
    model = _model(connection, tenant, row["model_id"])
    champion: Row | None = None
    if found["production"] is not None:
        champion = version(connection, found, found["production"])
    facts = facts_of(connection, tenant, model, champion["model_id"] if champion else None)
    runs: dict[str, _Run] = {}
    about: dict[str, Any] = {
        "version": number,
        "against": found["production"],
        "artifacts": {"model": model["artifact"], "base": model["base_artifact"]},
    }
    if rules.eval_id is not None:
        definition = repository.eval_row(connection, tenant, rules.eval_id)
        if definition is None or definition["deleted_at"] is not None:
            raise Conflict(f"the eval {rules.eval_id!r} of the gate was deleted; name another in the gates")
        about["eval"] = {
            "id": rules.eval_id,
            "name": definition["name"],
            "hash": digest([definition["data_source_config"], definition["testing_criteria"]]),
        }
        wanted = {"candidate": (asked.candidate, _names(name, row))}
        if champion is not None:
            wanted["champion"] = (asked.champion, _names(name, champion))
        if rules.baseline_model is not None:
            wanted["baseline"] = (asked.baseline, [rules.baseline_model])
        for role, (run_id, names) in wanted.items():
            run = _run(connection, tenant, rules.eval_id, run_id, names, role)
            if run is not None:
                runs[role] = run
        learned = [model["dataset_version"], *(ancestor["data"] for ancestor in facts.ancestors)]
        own = next((data for data in learned if "candidate" in runs and runs["candidate"].is_of(data)), None)
        facts = replace(facts, tested_on=own)
    waivers = [
        waiver
        for waiver in repository.waivers(connection, found["id"], number)
        if waiver["api_key_id"] != caller.key_id and caller.key_id is not None
    ]
    return _Evidence(found, row, rules, facts, runs, about, waivers)


def _model(connection: Connection, tenant: UUID, model_id: str) -> Row:
    row = models_repository.get_model(connection, tenant, model_id)
    if row is None:
        raise Conflict(f"the model {model_id!r} is there no more", code="model_gone", param="version")
    return row


def _names(name: str, row: Row) -> list[str]:
    """How a run may have named the model of a version."""
    return [row["model_id"], f"{PREFIX}{name}@{row['version']}"]


def _run(
    connection: Connection, tenant: UUID, eval_id: str, run_id: str | None, names: Sequence[str], role: str
) -> _Run | None:
    if run_id is not None:
        row = repository.run_of(connection, tenant, eval_id, run_id=run_id)
        if row is None:
            raise NotFound(f"{eval_id} has no run {run_id!r} that succeeded", param=f"{role}_run")
        if row["model"] not in names:
            said = f"run {run_id} is of {row['model'] or 'answers that were given'}, not of {names[0]}"
            raise Conflict(said, param=f"{role}_run")
    else:
        row = repository.run_of(connection, tenant, eval_id, models=list(names))
    if row is None:
        return None
    return _Run(row["id"], row["model"], items_of(connection, row["id"]), row["items_of"], row["split"])


def items_of(connection: Connection, run_id: str) -> list[Item]:
    """What the items of an eval run came to."""
    return [
        Item(
            key=row["item_key"],
            cluster=row["cluster"],
            score=float(row["score"]),
            passed=row["passed"],
            slices={str(key): str(value) for key, value in row["slices"].items()},
        )
        for row in evals_repository.scores(connection, run_id)
    ]
