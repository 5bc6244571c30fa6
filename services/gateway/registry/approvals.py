"""The second key: what it approves or refuses of what another asked for, and what it lets through by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from services.gateway.auth import Caller
from services.gateway.registry import decisions_repository as decisions
from services.gateway.registry import repository
from services.gateway.registry.releases import registered, version
from services.gateway.registry.repository import Move
from services.gateway.registry.store import check_gates, hold, tell, told
from shared.contracts.model_registry import GateRules, waivable
from shared.db import Connection, Row
from shared.errors import InvalidInput, NotFound
from shared.jobs import new_id


def approve(connection: Connection, caller: Caller, name: str, request_id: str) -> tuple[Row, Row]:
    """(registered model, event): what was asked for happens, by another key than the one that asked."""
    found = registered(connection, caller.tenant, name)
    asked = request(connection, found, request_id)
    if asked["settings"] is not None:
        # What its gates name may have been deleted since.
        check_gates(connection, caller.tenant, GateRules.model_validate(asked["settings"]["gates"]))
    wanted = Move(asked["action"], asked["version"], asked["share"], asked["decision_id"], asked["settings"])
    event = repository.move(
        connection, found["id"], wanted, request=request_id, key=caller.key_id, reason=asked["reason"]
    )
    if asked["version"] is not None:
        hold(connection, caller, version(connection, found, asked["version"]))
    told(connection, caller.tenant, name, asked["action"], event)
    return registered(connection, caller.tenant, name), event


def reject(connection: Connection, caller: Caller, name: str, request_id: str, reason: str | None) -> Row:
    """The request, which is over."""
    found = registered(connection, caller.tenant, name)
    asked = request(connection, found, request_id)
    repository.reject(connection, found["id"], request_id, reason, caller.key_id)
    about = {"request": request_id, "action": asked["action"], "version": asked["version"]}
    tell(connection, caller.tenant, name, "model.approval_refused", about)
    return request(connection, found, request_id)


def request(connection: Connection, found: Row, request_id: str) -> Row:
    row = decisions.request(connection, found["id"], request_id)
    if row is None:
        raise NotFound(f"{found['name']!r} has no request {request_id!r}", param="request_id")
    return row


def waive(
    connection: Connection, caller: Caller, name: str, number: int, check: str, reason: str, days: float
) -> Row:
    """A waiver of one check of one version, which another key may use until it expires."""
    found = registered(connection, caller.tenant, name)
    version(connection, found, number)
    if caller.key_id is None:
        raise InvalidInput(
            "with HELIU_AUTH=off everybody is the same user, and a waiver is used by another key than gave it",
            param="check",
        )
    if not waivable(check):
        raise InvalidInput(
            f"{check!r} cannot be waived; items, quality, improvement, baseline, baseline_model, data_gate and "
            "slice:NAME=VALUE can",
            param="check",
        )
    until = datetime.now(UTC) + timedelta(days=days)
    made = decisions.add_waiver(
        connection, new_id("regwvr-"), caller.tenant, found["id"], number, check, reason, caller.key_id, until
    )
    tell(connection, caller.tenant, name, "model.check_waived", {"version": number, "check": check})
    return made
