"""What may happen to a registered model: made, given versions, staged, promoted, shared, rolled back. Works in the
caller's transaction, where the database checks each move again, and where who listens is told of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.gateway.auth import Caller
from services.gateway.models import repository as models_repository
from services.gateway.models import resolve
from services.gateway.models.uses import check_name_unused
from services.gateway.registry import decisions_repository as decisions
from services.gateway.registry import repository
from services.gateway.registry.evidence_repository import hold_eval
from services.gateway.registry.releases import registered, version
from services.gateway.registry.repository import Move
from shared import job_store
from shared.contracts.model_registry import (
    MAX_VERSIONS,
    PREFIX,
    WHOLE,
    Approval,
    CanaryRule,
    GateRules,
    registered_name,
)
from shared.db import Connection, Row
from shared.errors import Conflict, HeliuError, InvalidInput, NotFound
from shared.jobs import new_id

MOST_NAMES = 1000
# How long what was asked for waits for a second key.
REQUEST_DAYS = 14
EVENTS = {
    "register": "model.registered",
    "stage": "model.staged",
    "archive": "model.archived",
    "promote": "model.promoted",
    "canary": "model.canary_started",
    "end_canary": "model.canary_ended",
    "rollback": "model.rolled_back",
    "settings": "model.gates_changed",
}


def create(
    connection: Connection,
    caller: Caller,
    name: str,
    description: str | None,
    gates: GateRules,
    approval: Approval,
    canary_rule: CanaryRule | None,
) -> Row:
    """A name without versions. Raises Conflict for one that is taken."""
    check_gates(connection, caller.tenant, gates)
    check_approval(caller, approval)
    if repository.count(connection, caller.tenant) >= MOST_NAMES:
        raise InvalidInput(
            f"a tenant may have {MOST_NAMES} registered models; delete one first", param="name"
        )
    made = repository.insert(
        connection,
        new_id("reg-"),
        caller.tenant,
        name,
        description=description,
        gates=gates.model_dump(mode="json"),
        approval=approval,
        canary_rule=rule_of(canary_rule),
        key=caller.key_id,
    )
    if not made:
        raise Conflict(
            f"there is a registered model {name!r} already; add a version to it",
            code="already_exists",
            param="name",
        )
    return registered(connection, caller.tenant, name)


def check_gates(connection: Connection, tenant: UUID, gates: GateRules) -> None:
    """Raise NotFound for an eval or a baseline that is not there. They stay until the transaction ends."""
    if gates.eval_id is not None and not hold_eval(connection, tenant, gates.eval_id):
        raise NotFound(f"no eval {gates.eval_id!r}", param="gates.eval_id")
    if gates.baseline_model is not None:
        resolve.kept_row(connection, tenant, gates.baseline_model, "gates.baseline_model")


def check_approval(caller: Caller, approval: Approval) -> None:
    """Raise InvalidInput where there can be no second key."""
    if approval == "required" and caller.key_id is None:
        raise InvalidInput(
            "with HELIU_AUTH=off everybody is the same user, so that nobody could approve; leave approval at 'none'",
            param="approval",
        )


def add(connection: Connection, caller: Caller, name: str, model: str, note: str | None) -> tuple[Row, Row]:
    """(registered model, version): a candidate. A model that the name has already is not added again."""
    found = registered(connection, caller.tenant, name)
    if registered_name(model) is not None:
        raise InvalidInput(f"{model!r} is a registered name itself; name a model", param="model")
    row = resolve.kept_row(connection, caller.tenant, model)
    if found["latest"] >= MAX_VERSIONS:
        raise InvalidInput(
            f"a registered model has {MAX_VERSIONS} versions at most; make another", param="model"
        )
    number = repository.add(connection, found["id"], row["id"], note, caller.key_id)
    if number > found["latest"]:
        told(connection, caller.tenant, name, "register", {"version": number, "model_id": row["id"]})
    found = registered(connection, caller.tenant, name)
    return found, version(connection, found, number)


def change(
    connection: Connection,
    caller: Caller,
    name: str,
    *,
    description: str | None,
    gates: GateRules | None,
    approval: Approval | None,
    canary_rule: tuple[CanaryRule | None] | None,
    reason: str | None,
) -> tuple[Row, Row | None]:
    """(registered model, request). What is None stays, and a rule of (None,) is taken away; where approval is asked
    for, so it is for changing that."""
    found = registered(connection, caller.tenant, name)
    if description is not None:
        repository.describe(connection, found["id"], description)
    if gates is None and approval is None and canary_rule is None:
        return registered(connection, caller.tenant, name), None
    if gates is not None:
        check_gates(connection, caller.tenant, gates)
    check_approval(caller, approval or "none")
    settings = {
        "gates": gates.model_dump(mode="json") if gates is not None else found["gates"],
        "approval": approval or found["approval"],
        "canary_rule": rule_of(canary_rule[0]) if canary_rule is not None else found["canary_rule"],
    }
    asked = move(connection, caller, found, Move("settings", settings=settings), reason)
    return registered(connection, caller.tenant, name), asked


def rule_of(rule: CanaryRule | None) -> dict[str, Any] | None:
    """As it is stored and shown."""
    return rule.model_dump(mode="json", exclude_none=True) if rule is not None else None


def move(
    connection: Connection, caller: Caller, found: Row, wanted: Move, reason: str | None = None
) -> Row | None:
    """Do it, or have it wait for a second key: then the request."""
    if wanted.number is not None and wanted.action != "archive":
        hold(connection, caller, version(connection, found, wanted.number))
    if found["approval"] == "required" and wanted.action in ("promote", "canary", "settings"):
        until = datetime.now(UTC) + timedelta(days=REQUEST_DAYS)
        made = decisions.add_request(
            connection,
            new_id("regreq-"),
            caller.tenant,
            found["id"],
            wanted,
            reason=reason,
            key=caller.key_id,
            expires_at=until,
        )
        about = {"request": made["id"], "action": wanted.action, "version": wanted.number}
        tell(connection, caller.tenant, found["name"], "model.approval_requested", about)
        return made
    event = repository.move(connection, found["id"], wanted, key=caller.key_id, reason=reason)
    told(connection, caller.tenant, found["name"], wanted.action, event)
    return None


def hold(connection: Connection, caller: Caller, row: Row) -> None:
    """Keep a version's model from being deleted meanwhile."""
    if not models_repository.hold(connection, caller.tenant, row["model_id"]):
        raise Conflict(
            f"the model {row['model_id']!r} of version {row['version']} is there no more",
            code="model_gone",
            param="version",
        )


def roll_back(
    connection: Connection, caller: Caller, name: str, from_version: int | None, reason: str | None
) -> tuple[Row, Row]:
    """(registered model, event). `from_version` is what the caller takes for being in production, where told."""
    found = registered(connection, caller.tenant, name)
    number = from_version if from_version is not None else found["production"]
    wanted = Move("rollback", number=number)
    event = repository.move(connection, found["id"], wanted, key=caller.key_id, reason=reason)
    hold(connection, caller, version(connection, found, event["production"]))
    told(connection, caller.tenant, name, "rollback", event)
    return registered(connection, caller.tenant, name), event


def delete(connection: Connection, caller: Caller, name: str) -> None:
    """The name is free at once. Raises Conflict while tasks, graders or gates name it, or it asks a second key."""
    found = registered(connection, caller.tenant, name)
    check_name_unused(connection, caller.tenant, name, found["latest"])
    repository.delete(connection, found["id"])
    tell(connection, caller.tenant, name, "model.deleted", {})


def blocked(connection: Connection, caller: Caller, name: str, made: Row, reasons: list[str]) -> HeliuError:
    """Tell who listens that a gate held a version back; returns what the caller is told, to raise after the commit."""
    about = {
        "version": made["version"],
        "decision": made["id"],
        "verdict": made["verdict"],
        "reasons": reasons,
    }
    tell(connection, caller.tenant, name, "model.promotion_blocked", about)
    return Conflict(
        f"the gate holds {name}@{made['version']} back ({made['verdict']}, decision {made['id']}): "
        f"{'; '.join(reasons)}",
        code="promotion_blocked",
        param="version",
    )


def parts_of(share: float) -> int:
    """0.05 -> 500 parts of WHOLE. Raises InvalidInput for a share that is none."""
    parts = round(share * WHOLE)
    if not 0 < parts < WHOLE:
        raise InvalidInput(
            f"share is {share}; it must lie between 0 and 1, in steps of 0.0001 (DELETE ends a canary, promote "
            "gives it all callers)",
            param="share",
        )
    return parts


def told(connection: Connection, tenant: UUID, name: str, action: str, event: Row) -> None:
    """Queue the webhooks of a move, in its own transaction."""
    names = (
        "version",
        "production",
        "canary",
        "decision_id",
        "request_id",
        "reason",
        "api_key_id",
        "approved_by",
    )
    about = {key: event[key] for key in (*names, "model_id") if event.get(key) is not None}
    if event.get("share"):
        about["share"] = event["share"] / WHOLE
    tell(connection, tenant, name, EVENTS[action], about)
    followed = event.get("data", {}).get("from_version")
    if followed is not None:
        tell(
            connection, tenant, name, "model.archived", {"version": followed, "followed_by": event["version"]}
        )


def tell(connection: Connection, tenant: UUID, name: str, type_: str, about: dict[str, Any]) -> None:
    job_store.enqueue_webhooks(connection, tenant, type_, {"registry": name, "model": PREFIX + name, **about})
